"""Fixtures that every test folder shares."""

import os
from pathlib import Path

# Some tests fork a process that trains; threads of OpenMP do not survive a fork, and what waits for them would hang. One thread has none.
# Set before torch is imported, and for the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The developers' folder of golden cases and benchmark pictures; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("EQMAMBAIR_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("the golden cases and benchmark pictures (EQMAMBAIR_SHARED) are not on this machine")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA GPU, and this machine has none")
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(skip)

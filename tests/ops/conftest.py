"""Fixtures of the tests of the scan."""

import pytest

from eqmambair.ops import backends


@pytest.fixture(scope="session")
def compiled() -> None:
    """Tests of the compiled CPU kernels skip where there is no compiler."""
    if why := backends.why_not_faster("cpu"):
        pytest.skip(f"no compiled kernels here: {why.splitlines()[0]}")

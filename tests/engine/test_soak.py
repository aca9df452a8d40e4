"""The quick form of scripts/soak_training.py; docs/reliability.md has the summary of the long one."""

import subprocess
import sys

from tests.conftest import ROOT
from tests.engine.running import environment


def test_torture_finds_nothing() -> None:
    line = [sys.executable, str(ROOT / "scripts" / "soak_training.py"), "--kills", "2", "--options", "12", "--folders", "8", "--seed", "5"]
    done = subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills: 2 in all, 0 failures" in done.stdout

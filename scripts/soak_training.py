"""Torture training: kill it at random moments and compare the end bit for bit; feed it broken option files and broken data.

python scripts/soak_training.py                 # 40 kills, 300 option files, 60 data folders: some minutes on two cores
python scripts/soak_training.py --kills 4 --options 20 --folders 8

Every trial is a process of its own, forked from this one so that it starts at once. It must end with a correct run, or with status 2 and
one line ``error: ...``; a traceback, a hang, another status or silence about a misspelt key is a failure. The exit status is 1 if there
was any.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from soak.folders import soak_folders  # noqa: E402
from soak.kills import soak_kills  # noqa: E402
from soak.options import soak_options  # noqa: E402
from soak.trials import make_pairs  # noqa: E402


def main(argv: list[str]) -> int:
    """Run all trials and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--options", type=int, default=300, help="mutated option files")
    parser.add_argument("--folders", type=int, default=60, help="damaged data folders")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pairs(folder / "data")
        failures = soak_kills(arguments.kills, folder, arguments.seed)
        failures += soak_options(arguments.options, folder, arguments.seed)
        failures += soak_folders(arguments.folders, folder, arguments.seed)
    for failure in failures:
        print(f"FAILED: {failure}")
    print(f"{len(failures)} failures in {time.monotonic() - begun:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

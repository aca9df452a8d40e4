#!/usr/bin/env bash
# Set up .venv, check style and types, run the tests. Arguments go to pytest: bash scripts/run_tests.sh tests/data -k lmdb
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup_env.sh"
cd "$root"
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
.venv/bin/python -m mypy
exec .venv/bin/python -m pytest "$@"

#!/usr/bin/env bash
# Set up the virtual environment .venv in the root of the checkout: the toolbox, editable, with what its tests need.
# Running it again costs nothing unless setup.py or pyproject.toml changed. PYTHON=/path/to/python chooses the interpreter.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"

fail() {
    echo "error: $*" >&2
    exit 1
}

suits() { # is $1 a Python that we support?
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

if [ -e "$venv/bin/python" ] && ! suits "$venv/bin/python"; then
    fail "$venv does not have Python 3.10 to 3.13 (or is broken); remove it and run this again"
fi
if [ ! -e "$venv/bin/python" ]; then
    chosen=""
    for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.11 python3.13 python3.10 python3 python; do
        if suits "$candidate"; then
            chosen="$candidate"
            break
        fi
        [ "$candidate" != "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not Python 3.10 to 3.13"
    done
    [ -n "$chosen" ] || fail "Python 3.10 to 3.13 is needed, and none is on the PATH (python3 here: $(python3 --version 2>&1 || true)); set PYTHON=/path/to/python"
    "$chosen" -m venv "$venv" || fail "$chosen cannot make a virtual environment; on Debian and Ubuntu install python3-venv"
fi
python="$venv/bin/python"

stamp="$("$python" -c 'import hashlib, sys
print(sys.version.split()[0], hashlib.sha256(b"".join(open(name, "rb").read() for name in sys.argv[1:])).hexdigest())' \
    "$root/setup.py" "$root/pyproject.toml" "${BASH_SOURCE[0]}")"
if [ "$(cat "$venv/.set-up" 2>/dev/null || true)" = "$stamp" ]; then
    exit 0
fi
echo "setting up $venv ($("$python" --version)); the first time this downloads torch and takes some minutes"
rm -f "$venv/.set-up"
"$python" -m pip install --quiet --upgrade pip "setuptools>=69" wheel
# torch first, so that the C++ and CUDA parts of the toolbox are built against the torch that will run them
"$python" -m pip install --quiet "torch>=2.4" torchvision ninja

# basicsr 1.4.2 is a source package whose setup.py asks for torch to build (so pip would download it twice), and reads its version by an exec()
# that Python 3.13 changed. Building its wheel here, without isolation and with the old exec(), avoids both; nothing of it is altered.
if ! "$python" -c 'import importlib.metadata as m; m.version("basicsr")' >/dev/null 2>&1; then
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
    cat >"$work/sitecustomize.py" <<'PATCH'
import builtins
import sys

plain_exec = builtins.exec


def exec_into_caller(code, *scopes, **options):
    if scopes or options:
        return plain_exec(code, *scopes, **options)
    caller = sys._getframe(1)
    return plain_exec(code, caller.f_globals, caller.f_locals)


if sys.version_info >= (3, 13):
    builtins.exec = exec_into_caller
PATCH
    PYTHONPATH="$work" "$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work" "basicsr>=1.4.2"
    "$python" -m pip install --quiet --no-deps "$work"/basicsr-*.whl
fi

"$python" -m pip install --quiet --no-build-isolation --editable "$root[dev]"
echo "$stamp" >"$venv/.set-up"

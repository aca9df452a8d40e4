"""How every command of the toolbox starts and ends: freed memory kept, one clear line and an exit status."""

import sys
from collections.abc import Callable

from eqmambair.errors import UserError
from eqmambair.inference.tiling import is_out_of_memory
from eqmambair.memory import keep_freed_memory


def run(main: Callable[[list[str]], int | None]) -> None:
    """Call ``main(argv)`` and leave the process with its status; 2 and one line on a ``UserError`` or without memory, 130 on Ctrl-C."""
    keep_freed_memory()
    try:
        status = main(sys.argv[1:]) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        status = 130
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        detail = (str(error) or type(error).__name__).splitlines()[0]
        print(f"error: not enough memory; take smaller sizes or pictures ({detail})", file=sys.stderr)
        status = 2
    sys.exit(status)

"""Keep the memory that tensors free, instead of giving it back to the system and taking it anew at every layer."""

import ctypes
import os
import sys

#: glibc's names for what mallopt sets.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Make the C library keep what is freed for the next allocation, for the rest of the process.

    By default glibc maps every large block anew, and the first touch of each page costs a page fault: seconds for a large picture. The
    commands of the toolbox call this when they start; importing the package never does. EQMAMBAIR_KEEP_MEMORY=0 leaves the C library alone.

    Returns:
        Whether anything was set; False with other C libraries.
    """
    if os.environ.get("EQMAMBAIR_KEEP_MEMORY", "1") == "0" or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False  # musl has none
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))

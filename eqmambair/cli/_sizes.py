"""Image sizes on the command line."""

import argparse
import re


def parse_size(text: str) -> tuple[int, int]:
    """``64x48`` -> (64, 48), height first.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not match or "0" in match.groups():
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write height and width as in 64x48")
    return int(match[1]), int(match[2])

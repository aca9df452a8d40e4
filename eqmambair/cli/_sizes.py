"""Sizes and counts on the command line."""

import argparse
import math
import re
from collections.abc import Callable

_LARGEST_SIDE = 65_536  # pixels; keeps every count of a network's numbers within 64 bits
_LARGEST_SEED = 2**32 - 1  # of numpy


def parse_size(text: str) -> tuple[int, int]:
    """``64x48`` -> (64, 48), height first.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not match or "0" in match.groups():
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write height and width as in 64x48")
    height, width = int(match[1]), int(match[2])
    if max(height, width) > _LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r} is too large; a side has at most {_LARGEST_SIDE} pixels")
    return height, width


def parse_seed(text: str) -> int:
    """A seed that torch and numpy take, from 0 to 2**32 - 1.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    if not re.fullmatch(r"\d+", text) or int(text) > _LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {_LARGEST_SEED}")
    return int(text)


def at_least(least: int) -> Callable[[str], int]:
    """What reads a whole number from ``least`` on; it raises `argparse.ArgumentTypeError` for anything else."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"\d+", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return parse


def share(text: str) -> float:
    """A number from 0 to 1.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return value

"""Arguments that say how ground truth is degraded before a network restores it: JPEG, or the papers' noise."""

import argparse
from typing import Any

import numpy as np

from eqmambair.data.degradations import benchmark_noise, jpeg
from eqmambair.data.degraded import one_channel
from eqmambair.data.io import Image, to_float
from eqmambair.errors import UserError
from eqmambair.metrics import Channel, to_eight_bit


def add_degradation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --jpeg, --noise and --seed."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--jpeg", type=int, metavar="QUALITY", help="compress the ground truth, 1 to 100, and restore that; scale 1")
    group.add_argument(
        "--noise", type=float, metavar="SIGMA", help="add Gaussian noise in 8-bit steps, not clipped, and restore that; scale 1"
    )
    parser.add_argument("--seed", type=int, default=0, help="of every picture's noise (default: 0, as in the papers)")


def degradation(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """What was asked for, as it stands in reports; None where nothing was.

    Raises:
        UserError: a quality, sigma or seed that there is not.
    """
    if arguments.jpeg is not None:
        if not 1 <= arguments.jpeg <= 100:
            raise UserError(f"--jpeg: a quality lies between 1 and 100, found {arguments.jpeg}")
        return {"jpeg": arguments.jpeg}
    if arguments.noise is not None:
        if not 0 <= arguments.noise < np.inf or not 0 <= arguments.seed < 2**32:
            raise UserError(f"--noise {arguments.noise} --seed {arguments.seed}: sigma is finite and not negative, a seed less than 2**32")
        return {"noise": arguments.noise, "seed": arguments.seed}
    return None


def degrade(truth: Image, how: dict[str, Any], channel: Channel) -> tuple[Image, Image]:
    """Return the truth in 8 bit, and what a network is given of it.

    Args:
        truth: gray or RGB; colour becomes gray first where gray is measured.
        how: from `degradation`.
        channel: what is measured.

    Returns:
        The truth, uint8, and the input: uint8 for JPEG, float32 with a range beyond [0, 1] for noise.

    Raises:
        UserError: the picture has alpha.
    """
    if truth.shape[2] == 4:
        raise UserError("has alpha; give it a background first")
    truth = to_eight_bit(truth)
    if channel == "gray" and truth.shape[2] == 3:
        truth = one_channel(truth, "gray").astype(np.uint8)
    if "jpeg" in how:
        return truth, jpeg(truth, how["jpeg"])
    noise = benchmark_noise((truth.shape[0], truth.shape[1], truth.shape[2]), how["noise"], how["seed"])
    return truth, (to_float(truth) + noise).astype(np.float32)

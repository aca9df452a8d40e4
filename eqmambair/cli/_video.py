"""Videos on the command line: how results are encoded, progress with the time that is left, and runs that go on where they were stopped."""

import argparse
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from eqmambair.cli._network import chosen
from eqmambair.data.io import Image
from eqmambair.engine.interrupts import Interrupts
from eqmambair.engine.store import digest
from eqmambair.errors import UserError
from eqmambair.inference.restore import Restorer
from eqmambair.inference.tiling import Progress
from eqmambair.video import Encoding, PictureSequence, Stopped, VideoFile, restore_video


def add_video_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says how videos are written."""
    video = parser.add_argument_group("videos")
    video.add_argument("--video_codec", metavar="NAME", help="FFmpeg's name of an encoder (default: libx264; libvpx-vp9 for .webm)")
    video.add_argument("--crf", type=int, help="quality, lower is better (default: 16 for libx264, 18 for libx265, 22 for VP9 and AV1)")
    video.add_argument("--pixel_format", metavar="NAME", help="FFmpeg's name, such as yuv420p (default: nearest to the source's)")
    video.add_argument("--video_option", metavar="KEY=VALUE", nargs="+", default=[], help="of the encoder, such as preset=slow")
    video.add_argument("--fps", type=_rate, help="frames a second of a video that is made of pictures, such as 24000/1001 (default: 25)")


def encoding_from_arguments(arguments: argparse.Namespace) -> Encoding:
    """How the arguments want results encoded.

    Raises:
        UserError: an option is no KEY=VALUE.
    """
    options = {}
    for each in arguments.video_option:
        key, equals, value = each.partition("=")
        if not (key and equals):
            raise UserError(f"--video_option {each}: expected KEY=VALUE, such as preset=slow")
        options[key] = value
    return Encoding(arguments.video_codec, arguments.crf, arguments.pixel_format, options)


def restore_one_video(source: Path | Sequence[Path], target: Path, restore: Restorer, arguments: argparse.Namespace) -> bool:
    """Make one video; a first signal ends the run after the frames that are done were made to last.

    Args:
        source: a video, or pictures.
        target: the result.
        restore: applied to each frame.
        arguments: of the command line.

    Returns:
        Whether the result is there; if not, the run was interrupted, and a line says so.

    Raises:
        UserError: as `restore_video`.
    """
    from tqdm import tqdm

    hidden = True if arguments.quiet else None
    encoding = encoding_from_arguments(arguments)
    if isinstance(source, Path):
        if arguments.fps is not None:
            raise UserError(f"{source}: a video keeps its own times; --fps is for videos made of pictures")
        with tqdm(desc=f"checking {source.name}", unit="frame", disable=hidden) as bar:
            frames: VideoFile | PictureSequence = VideoFile(source, bar.update)
    else:
        frames = PictureSequence(source, arguments.fps or Fraction(25))
    for note in frames.notes:
        print(f"note: {note}", file=sys.stderr)

    with Interrupts() as interrupts, tqdm(desc=target.name, total=frames.count, unit="frame", disable=hidden) as bar:

        def give_up_when_told(_: Progress) -> None:
            if interrupts.name:
                raise Stopped

        def restored(image: Image) -> Image:
            return restore(image, give_up_when_told)

        def show(done: int, earlier: int) -> None:
            bar.initial = earlier  # they say nothing of this run's speed
            bar.update(done - bar.n)

        outcome = restore_video(
            frames,
            target,
            restored,
            restore.scale,
            encoding=encoding,
            settings=_settings(arguments),
            stop=lambda: interrupts.name is not None,
            progress=show,
        )
        if not outcome.whole:
            kept = f"{outcome.done} of {outcome.total} frames are kept"
            print(f"stopped by {interrupts.name}: {target}: {kept}; the same command goes on from there", file=sys.stderr)
    return outcome.whole


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a restored frame depends on besides the frame."""
    choice = chosen(arguments)
    assert choice.weights is not None  # else there would be no network
    named = ("precision", "tile", "tile_overlap", "tile_mode", "self_ensemble", "param_key")
    return {"weights": digest(choice.weights), "network": choice.network, **{name: getattr(arguments, name) for name in named}}


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise argparse.ArgumentTypeError(f"expected frames a second, such as 25 or 24000/1001, not {text!r}")
    return rate

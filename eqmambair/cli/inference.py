"""Restore pictures and videos: files and folders, any size, gray, colour, alpha, 8 and 16 bit."""

import argparse
import os
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from eqmambair.cli._network import add_network_arguments, trained_from_arguments
from eqmambair.cli._restorer import add_restorer_arguments, restorer_from_arguments
from eqmambair.cli._run import run
from eqmambair.cli._video import add_video_arguments, restore_one_video
from eqmambair.data.io import IMAGE_EXTENSIONS, UNREAD_EXTENSIONS, list_images, read_image, write_image
from eqmambair.engine.interrupts import INTERRUPTED
from eqmambair.errors import UserError
from eqmambair.inference.tiling import Progress
from eqmambair.video import VIDEO_EXTENSIONS, WRITTEN_EXTENSIONS, expand_pattern, is_pattern

DEFAULT_MODEL = "eq_mambair_deep_x2"  # comes with the package


@dataclass
class Plan:
    """What is to be restored, as (input, output), pictures and videos; what is there already; and what cannot be done, one line each."""

    jobs: list[tuple[Path, Path]] = field(default_factory=list)
    videos: list[tuple[Path | list[Path], Path]] = field(default_factory=list)  # a list: pictures that become a video
    kept: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def main(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    if not (arguments.weights or arguments.model or arguments.opt):
        arguments.model = DEFAULT_MODEL
        print(f"no network named, so the bundled {DEFAULT_MODEL}; --model, --weights or --opt names another")
    inputs = [*arguments.inputs, *arguments.more_inputs]
    if not inputs:
        raise UserError("no input; name pictures, videos or folders")
    plan = make_plan(
        inputs,
        arguments.output,
        suffix=arguments.suffix,
        extension=arguments.format,
        recursive=arguments.recursive,
        overwrite=arguments.overwrite,
    )
    restored, interrupted = _restore_all(plan, arguments) if plan.jobs or plan.videos else (0, False)
    counts = f"{restored} restored, {len(plan.kept)} there already, {len(plan.problems)} problems"
    print(f"{counts}; results in {arguments.output}" if restored or plan.kept else counts)
    if plan.kept:
        print("what is there already was left alone; --overwrite makes it anew")
    for problem in plan.problems:
        print(f"problem: {problem}", file=sys.stderr)
    if interrupted:
        return INTERRUPTED
    return 1 if plan.problems else 0


def make_plan(inputs: list[Path], output: Path, *, suffix: str, extension: str, recursive: bool, overwrite: bool) -> Plan:
    """Find the pictures and videos and where each result goes; two inputs never share one, and none is written over.

    Args:
        output: a folder; or, for one input file, the file to write; or, for one folder or pattern of pictures, the video to make of them.
        extension: of the resulting pictures, such as ``png``; ``same`` keeps that of the input.

    Raises:
        UserError: the output is one file for several inputs, or of a format that is not written; or the suffix is no part of a name.
    """
    if "/" in suffix or os.sep in suffix:
        raise UserError(f"the suffix {suffix!r} is no part of a file name")
    if output.suffix.lower() in UNREAD_EXTENSIONS and not output.is_dir():
        raise UserError(f"{output}: {output.suffix} is not written; use one of {', '.join(IMAGE_EXTENSIONS)}")
    if output.suffix.lower() in VIDEO_EXTENSIONS and not output.is_dir():
        if output.suffix.lower() not in WRITTEN_EXTENSIONS:
            raise UserError(f"{output}: {output.suffix} is not written; use one of {', '.join(WRITTEN_EXTENSIONS)}")
        if len(inputs) == 1 and (inputs[0].is_dir() or is_pattern(inputs[0])):
            return _plan_of_sequence(inputs[0], output, overwrite)
    plan = Plan()
    found: list[tuple[Path, Path]] = []  # the file, and its place relative to the output folder
    for path in dict.fromkeys(inputs):
        if path.is_dir():
            # results of an earlier run that lie inside the folder are no inputs
            inside = output.resolve() if path.resolve() in output.resolve().parents else None
            known = (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS)
            images = [image for image in list_images(path, recursive, known) if inside not in image.resolve().parents]
            found += [(image, image.relative_to(path)) for image in images]
            unread = list_images(path, recursive=recursive, extensions=UNREAD_EXTENSIONS)
            plan.problems += [f"{other}: {other.suffix[1:].upper()} is not read; convert it first" for other in unread]
            if not images and not unread:
                plan.problems.append(f"{path}: no picture here ({', '.join(IMAGE_EXTENSIONS)}), and no video")
        elif path.exists():
            found.append((path, Path(path.name)))
        elif is_pattern(path) and (images := expand_pattern(path)):
            found += [(image, Path(image.name)) for image in images]
        else:
            plan.problems.append(f"{path}: no such file or folder")

    one_file = output.suffix.lower() in (*IMAGE_EXTENSIONS, *WRITTEN_EXTENSIONS) and not output.is_dir()
    if one_file and (len(inputs) > 1 or inputs[0].is_dir() or is_pattern(inputs[0])):
        raise UserError(f"{output}: is one file; name a folder for the results of several pictures")
    if one_file and found and _is_video(found[0][0]) != _is_video(output):
        raise UserError(f"{output}: cannot be made of {inputs[0]}; pictures become pictures, and videos become videos")
    if one_file and (suffix or extension != "same"):
        raise UserError(f"{output}: is the file to write; leave --suffix and --format out, or name a folder")

    originals = {path.resolve() for path, _ in found}
    owner: dict[Path, Path] = {}
    for path, relative in found:
        if one_file:
            target = output
        elif _is_video(path):
            written = path.suffix if path.suffix.lower() in WRITTEN_EXTENSIONS else ".mkv"
            target = output / relative.with_name(relative.stem + suffix + written)
        else:
            target = output / relative.with_name(relative.stem + suffix + (relative.suffix if extension == "same" else f".{extension}"))
        key = target.resolve()
        if key in originals:
            plan.problems.append(f"{path}: its result would overwrite the input {target}; give another --output, or a --suffix")
        elif key in owner:
            plan.problems.append(
                f"{path}: its result would be {target}, which is that of {owner[key]}; give other folders or --format same"
            )
        else:
            owner[key] = path
            if target.exists() and not overwrite:
                plan.kept.append(target)
            elif _is_video(path):
                plan.videos.append((path, target))
            else:
                plan.jobs.append((path, target))
    return plan


def _plan_of_sequence(source: Path, output: Path, overwrite: bool) -> Plan:
    """A video of the pictures in a folder or of a pattern."""
    pictures = list_images(source) if source.is_dir() else expand_pattern(source)
    if not pictures:
        return Plan(problems=[f"{source}: no picture here ({', '.join(IMAGE_EXTENSIONS)})"])
    if output.exists() and not overwrite:
        return Plan(kept=[output])
    return Plan(videos=[(pictures, output)])


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_EXTENSIONS


def _restore_all(plan: Plan, arguments: argparse.Namespace) -> tuple[int, bool]:
    """Restore what is planned; returns how much of it is done, and whether a signal ended the run."""
    from tqdm import tqdm

    restore = restorer_from_arguments(trained_from_arguments(arguments), arguments)
    one_file = arguments.output in [target for _, target in (*plan.jobs, *plan.videos)]
    folder = arguments.output.parent if one_file else arguments.output
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made a folder for the results ({error.strerror})") from error
    restored = 0
    with tqdm(plan.jobs, "restoring", unit="picture", disable=True if arguments.quiet or not plan.jobs else None) as bar:
        for source, target in bar:
            bar.set_postfix_str(source.name)
            try:
                result = restore(read_image(source), partial(_show, bar, source.name))
                write_image(target, result)
                restored += 1
            except UserError as error:
                plan.problems.append(str(error) if str(source) in str(error) else f"{source}: {error}")
    for video, target in plan.videos:
        try:
            if not restore_one_video(video, target, restore, arguments):
                return restored, True
            restored += 1
        except UserError as error:
            plan.problems.append(str(error) if str(target) in str(error) or str(video) in str(error) else f"{target}: {error}")
    return restored, False


def _show(bar: Any, name: str, at: Progress) -> None:
    bar.set_postfix_str(f"{name}, tile {at.done} of {at.total}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="inference.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("inputs", type=Path, nargs="*", help="pictures, videos, folders of them, and patterns such as frame_%%05d.png")
    parser.add_argument("--input", "-i", dest="more_inputs", type=Path, nargs="+", default=[], help="the same, as an option")
    parser.add_argument("--output", "-o", type=Path, default=Path("results"), help="folder, or a file for one input (default: %(default)s)")
    parser.add_argument("--suffix", default="", help="behind the name of each result (default: nothing)")
    formats = [extension[1:] for extension in IMAGE_EXTENSIONS]
    parser.add_argument("--format", choices=["same", *formats], default="same", help="of the results (default: that of each input)")
    parser.add_argument("--recursive", action="store_true", help="sub-folders too; the results lie in the same sub-folders")
    parser.add_argument("--overwrite", action="store_true", help="make results anew that are there already; else they are left alone")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_network_arguments(parser, exported=True)
    add_restorer_arguments(parser)
    add_video_arguments(parser)
    return parser


def cli() -> None:
    run(main)

"""Getting folders of pictures ready: low-resolution inputs, sub-images, LMDB, lists, checks, and the embedded sample.

A job that finds bad files does all the others, names the bad ones and says so in its `Report`. Files appear whole or not at all, so an
interrupted job is continued by running it again: what is there, and was made of the source as it is now, is left alone. What a folder was
made of stands in a hidden file in it.
"""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eqmambair.data.io import IMAGE_EXTENSIONS, Image, decode_image, list_images, read_image, to_float, write_image
from eqmambair.errors import UserError
from eqmambair.files import replace_file

LMDB_LONGEST_KEY = 511  # bytes; LMDB's own limit
_JOBS_WORTH_PROCESSES = 16  # starting a process costs about two seconds


@dataclass
class Report:
    """What a job did: files written, files left alone because they were there already, and one line for each problem."""

    written: int = 0
    kept: int = 0
    problems: list[str] = field(default_factory=list)


# --- the bicubic of the benchmarks -------------------------------------------------------------------------------------------------


def mod_crop(image: Image, scale: int) -> Image:
    """Return the upper left part whose sides are multiples of ``scale``."""
    height, width = image.shape[0] // scale * scale, image.shape[1] // scale * scale
    if height == 0 or width == 0:
        raise UserError(f"an image of {image.shape[1]}x{image.shape[0]} is smaller than the scale {scale}")
    return image[:height, :width]


def downscale(image: Image, scale: int) -> Image:
    """Return the mod-cropped picture at 1/scale, same dtype: MATLAB's antialiased bicubic as in basicsr's `imresize`, rounded."""
    return _bicubic(mod_crop(image, scale), 1 / scale, margin=5 * scale, smallest=4 * scale + 4)


def upscale(image: Image, scale: int) -> Image:
    """Return the picture enlarged by ``scale`` with MATLAB's bicubic, same dtype, clipped and rounded: the baseline of the tables."""
    return _bicubic(image, scale, margin=8, smallest=8)


def enlarged(values: NDArray[np.float32], scale: int) -> NDArray[np.float32]:
    """As `upscale` for numbers of any range, (h, w, c) float32: neither clipped nor rounded."""
    return _resized(values, scale, margin=8, smallest=8)


def _resized(pixels: NDArray[np.float32], factor: float, margin: int, smallest: int) -> NDArray[np.float32]:
    """Resize with basicsr's function; images smaller than its kernel are mirrored outwards first, as MATLAB does inside."""
    from basicsr.utils.matlab_functions import imresize

    if min(pixels.shape[:2]) >= smallest:
        return np.asarray(imresize(pixels, factor))
    inner = round(margin * factor)
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    return np.asarray(imresize(padded, factor))[inner:-inner, inner:-inner]


def _bicubic(image: Image, factor: float, margin: int, smallest: int) -> Image:
    resized = _resized(to_float(image), factor, margin, smallest)
    largest = np.iinfo(image.dtype).max
    return np.rint(np.clip(resized, 0, 1) * np.float32(largest)).astype(image.dtype)


# --- pairs of files ----------------------------------------------------------------------------------------------------------------


@dataclass
class Pairs:
    """Files matched by name: ``both`` holds (ground truth, other); the rest is what has no partner, or more than one."""

    both: list[tuple[Path, Path]]
    truth_alone: list[Path]
    other_alone: list[Path]
    ambiguous: list[str]


def pair_by_name(truth: Iterable[Path], other: Iterable[Path], scale: int, suffix: str | None = None) -> Pairs:
    """Match files by their names without extension; the other name may carry ``suffix``, or by default x2, _x2, ... of the scale.

    The suffix that matches most files is tried first, so that a ground truth whose own name ends in x2 is not mistaken for a result.
    """
    truths, truth_twice = _by_stem(truth)
    others, other_twice = _by_stem(other)
    suffixes = ["", f"x{scale}", f"_x{scale}"] if suffix is None else [suffix, ""]
    suffixes.sort(key=lambda ending: -sum(stem + ending in others for stem in truths))  # stable: ties keep the order above
    both, used = [], set()
    alone = dict(truths)
    for ending in suffixes:
        for stem in list(alone):
            if stem + ending in others and stem + ending not in used:
                used.add(stem + ending)
                both.append((alone.pop(stem), others[stem + ending]))
    return Pairs(
        both=sorted(both),
        truth_alone=sorted(alone.values()),
        other_alone=sorted(path for stem, path in others.items() if stem not in used),
        ambiguous=truth_twice + other_twice,
    )


def _by_stem(paths: Iterable[Path]) -> tuple[dict[str, Path], list[str]]:
    grouped: dict[str, list[Path]] = {}
    for path in paths:
        grouped.setdefault(path.stem, []).append(path)
    twice = [f"{group[0].parent}: {', '.join(p.name for p in group)} have the same name" for group in grouped.values() if len(group) > 1]
    return {stem: group[0] for stem, group in grouped.items() if len(group) == 1}, twice


# --- what was made of what ---------------------------------------------------------------------------------------------------------


class _Record:
    """A hidden file in a folder of results: the size and time of what each was made of, and the settings that all were made with.

    Times of files alone do not tell, as a picture may be replaced by an older one.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".made_from.json"
        self.settings: dict[str, int] = {}
        self.sources: dict[str, list[int]] = {}
        if self.path.is_file():
            try:
                content = json.loads(self.path.read_bytes())
                self.settings, self.sources = content["settings"], content["sources"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{self.path}: cannot be read; delete it") from error
        self._saved = self._encoded()

    def is_fresh(self, key: str, source: Path, target: Path) -> bool:
        """Whether ``target`` is there and was made of ``source`` as it is now; where nothing is recorded, whether it is not older."""
        if not target.exists():
            return False
        if key in self.sources:
            return self.sources[key] == _state(source)
        return target.stat().st_mtime_ns >= source.stat().st_mtime_ns

    def save(self) -> None:
        """Write the file, if there is anything new."""
        encoded = self._encoded()
        if encoded != self._saved:
            replace_file(self.path, encoded)
            self._saved = encoded

    def _encoded(self) -> bytes:
        return json.dumps({"settings": self.settings, "sources": self.sources}, indent=0).encode()


def _state(source: Path) -> list[int]:
    found = source.stat()
    return [found.st_size, found.st_mtime_ns]


# --- jobs --------------------------------------------------------------------------------------------------------------------------


def make_lr(
    hr: Path, output: Path, scales: Sequence[int], *, suffix: str = "x{scale}", workers: int = 1, overwrite: bool = False
) -> Report:
    """Write ``output/X2/NAMEx2.png`` and so on for every picture of ``hr`` and every scale.

    Args:
        suffix: what is put behind the name; ``{scale}`` stands for the scale, and "" keeps the name.

    Raises:
        UserError: a result would replace a picture of ``hr``; two would be one file; or an argument is wrong.
    """
    if any(scale < 2 for scale in scales):
        raise UserError(f"a scale is an integer of at least 2, not {min(scales)}")
    if "/" in suffix or os.sep in suffix:
        raise UserError(f"the suffix {suffix!r} is no part of a file name")
    sources = _images_or_error(hr)
    _, twice = _by_stem(sources)
    if twice:
        raise UserError(f"{twice[0]}, so their low-resolution files would be one: rename them")
    originals = {source.resolve() for source in sources}
    records = {scale: _Record(output / f"X{scale}") for scale in scales}
    jobs = []
    states = {}
    report = Report()
    for source in sources:
        states[source] = _state(source)  # before it is read: a later change is then noticed
        wanted = []
        for scale in scales:
            target = output / f"X{scale}" / f"{source.stem}{suffix.replace('{scale}', str(scale))}.png"
            if target.resolve() in originals:
                raise UserError(
                    f"{target}: is a picture of {hr}, which its low resolution would replace; give another --output or --suffix"
                )
            if not overwrite and records[scale].is_fresh(target.name, source, target):
                records[scale].sources[target.name] = states[source]
                report.kept += 1
            else:
                wanted.append((scale, target))
        if wanted:
            jobs.append((source, wanted))
    try:
        for (source, wanted), _, error in _each(_write_lr, jobs, workers, "low resolution"):
            if error:
                report.problems.append(error)
                continue
            report.written += len(wanted)
            for scale, target in wanted:
                records[scale].sources[target.name] = states[source]
    finally:
        for record in records.values():
            record.save()
    return report


def _write_lr(job: tuple[Path, list[tuple[int, Path]]]) -> None:
    source, wanted = job
    image = read_image(source)
    for scale, target in wanted:
        try:
            small = downscale(image, scale)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
        write_image(target, small)


def make_subimages(
    source: Path,
    output: Path,
    *,
    size: int,
    step: int,
    threshold: int = 0,
    multiple: int = 1,
    workers: int = 1,
    overwrite: bool = False,
) -> Report:
    """Cut every picture into pieces ``NAME_s001.png`` of size x size pixels every ``step`` pixels, as basicsr's extract_subimages does.

    The last piece of a row or column is moved inwards to end at the border if more than ``threshold`` pixels would be left over. A name
    that ends in x2, x3, x4 or x8 loses this, so that pieces of low- and high-resolution pictures pair by name; ground truth whose sides
    are not multiples of the scale must be cropped to it first (``multiple``), else it may give more pieces than its low resolution.

    Pieces that a picture had and has no more are removed. With ``overwrite`` and other settings than last time, all former pieces are.

    Raises:
        UserError: ``output`` holds pieces cut with other settings, or is ``source``; two pictures have one name; or an argument is wrong.
    """
    if min(size, step, multiple) < 1 or threshold < 0:
        raise UserError(f"size, step and multiple must be at least 1, threshold at least 0, not {size}, {step}, {multiple}, {threshold}")
    sources = _images_or_error(source)
    names = Counter(_subimage_stem(path) for path in sources)
    clash = [stem for stem, count in names.items() if count > 1]
    if clash:
        raise UserError(f"{source}: several files would be cut into {clash[0]}_s001.png: rename them")
    if output.resolve() == source.resolve():
        raise UserError(f"{output}: holds the pictures to be cut; give another folder for the pieces")
    settings = {"size": size, "step": step, "threshold": threshold, "multiple": multiple}
    record = _Record(output)
    if record.settings != settings:
        pieces = [path for path in list_images(output) if _PIECE.search(path.name)] if output.is_dir() else []
        if pieces and not overwrite:
            said = ", ".join(f"{key} {value}" for key, value in record.settings.items()) or "settings that nothing tells"
            raise UserError(f"{output}: holds pieces cut with {said}; give another --output, or --overwrite to cut anew")
        made = {*names, *(_subimage_stem(Path(name)) for name in record.sources)}
        for path in pieces:
            if _PIECE.sub("", path.name) in made:
                path.unlink()
        record.settings, record.sources = settings, {}
        record.save()  # before the first piece, so that an interrupted run is known for what it was

    report = Report()
    jobs = []
    states = {}
    for path in sources:
        states[path] = _state(path)
        changed = overwrite or (path.name in record.sources and record.sources[path.name] != states[path])
        jobs.append((path, changed, path.name not in record.sources))
    job = partial(_write_subimages, output=output, size=size, step=step, threshold=threshold, multiple=multiple)
    try:
        for (path, _, _), counts, error in _each(job, jobs, workers, "sub-images"):
            if error:
                report.problems.append(error)
                continue
            report.written += counts[0]
            report.kept += counts[1]
            record.sources[path.name] = states[path]
    finally:
        record.save()
    return report


_PIECE = re.compile(r"_s\d{3,}\.png$")


def _subimage_stem(path: Path) -> str:
    return re.sub(r"x[2348]$", "", path.stem)


def _write_subimages(job: tuple[Path, bool, bool], output: Path, size: int, step: int, threshold: int, multiple: int) -> tuple[int, int]:
    """Return how many pieces were written, and how many were there; the job is a picture, whether all are to be cut anew, or the older."""
    source, anew, judge_by_time = job
    image = mod_crop(read_image(source), multiple)
    height, width = image.shape[:2]
    if height < size or width < size:
        raise UserError(f"{source}: {width}x{height} is smaller than a piece of {size}x{size}")
    corners = [(top, left) for top in _starts(height, size, step, threshold) for left in _starts(width, size, step, threshold)]
    changed = source.stat().st_mtime_ns
    written = 0
    for number, (top, left) in enumerate(corners, start=1):
        target = _piece(output, source, number)
        if anew or not target.exists() or (judge_by_time and target.stat().st_mtime_ns < changed):
            write_image(target, image[top : top + size, left : left + size])
            written += 1
    surplus = len(corners) + 1
    while _piece(output, source, surplus).exists():  # of a picture that was larger
        _piece(output, source, surplus).unlink()
        surplus += 1
    return written, len(corners) - written


def _piece(output: Path, source: Path, number: int) -> Path:
    return output / f"{_subimage_stem(source)}_s{number:03d}.png"


def _starts(length: int, size: int, step: int, threshold: int) -> list[int]:
    starts = list(range(0, length - size + 1, step))
    if length - (starts[-1] + size) > threshold:
        starts.append(length - size)
    return starts


def make_lmdb(source: Path, output: Path, *, recursive: bool = False, overwrite: bool = False) -> Report:
    """Put the files of a folder, byte for byte, into an LMDB in basicsr's layout (data.mdb and meta_info.txt in ``NAME.lmdb``).

    The key of a file is its path relative to the folder without the last extension. Damaged files, and those whose names are no UTF-8, are
    named and left out. The LMDB appears whole or not at all. One that is there already is compared, byte for byte.

    Raises:
        UserError: the LMDB is there already and holds anything else; no file can be read; or an argument is wrong.
    """
    import lmdb

    if output.suffix != ".lmdb":
        raise UserError(f"{output}: the name of an LMDB folder ends in .lmdb")
    report = Report()
    keys: dict[str, Path] = {}
    for path in _with_utf8_names(source, _images_or_error(source, recursive=recursive), report.problems):
        key = path.relative_to(source).with_suffix("").as_posix()
        if key in keys:
            raise UserError(f"{source}: {keys[key].name} and {path.name} would have the same key {key}: rename one")
        if len(key.encode()) > LMDB_LONGEST_KEY:
            raise UserError(f"{path}: the name is longer than the {LMDB_LONGEST_KEY} bytes that LMDB takes as key")
        keys[key] = path
    if output.exists() and not overwrite:
        return _compare_lmdb(output, source, keys, report)
    if output.is_dir():
        if output.resolve() in (source.resolve(), *source.resolve().parents):
            raise UserError(f"{output}: holds the pictures themselves; give another --output")
        foreign = sorted(path.name for path in output.iterdir() if path.name not in _LMDB_FILES)
        if foreign:
            raise UserError(f"{output}: holds {foreign[0]}, which is no part of an LMDB; give another --output")

    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    lines = []
    try:
        temporary.mkdir(parents=True)
        environment = lmdb.open(str(temporary), map_size=1 << 24)
        try:
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                for chunk in _chunks(sorted(keys.items()), 64):
                    entries = []
                    for (key, path), (data, shape, error) in zip(chunk, threads.map(_load_checked, (p for _, p in chunk)), strict=True):
                        if error:
                            report.problems.append(error)
                            continue
                        entries.append((key.encode(), data))
                        lines.append(f"{path.relative_to(source).as_posix()} ({shape[0]},{shape[1]},{shape[2]}) 0\n")
                    _put_all(environment, entries)
        finally:
            environment.close()
        if not lines:
            raise UserError(f"{source}: no file could be stored, so no LMDB was made; the first problem: {report.problems[0]}")
        (temporary / "meta_info.txt").write_text("".join(lines), encoding="utf-8")
        if output.exists():
            shutil.rmtree(output)
        temporary.replace(output)
    except (OSError, lmdb.Error) as error:
        raise UserError(f"{output}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    report.written = len(lines)
    return report


_LMDB_FILES = ("data.mdb", "lock.mdb", "meta_info.txt")


def _compare_lmdb(output: Path, source: Path, keys: dict[str, Path], report: Report) -> Report:
    """Count the files that an LMDB holds as they are now, and name the damaged ones; raise `UserError` if it holds anything else."""
    import lmdb

    stored = set(read_meta_info(output / "meta_info.txt"))
    remedy = "give --overwrite to make it anew"
    gone = stored - {path.relative_to(source).as_posix() for path in keys.values()}
    if gone:
        raise UserError(f"{output}: holds {min(gone)}, which is not in {source}; {remedy}")
    try:
        with lmdb.open(str(output), readonly=True, lock=False) as environment, environment.begin(buffers=True) as transaction:
            for key, path in sorted(keys.items()):
                name = path.relative_to(source).as_posix()
                if name in stored:
                    value = transaction.get(key.encode())
                    if value is None or len(value) != path.stat().st_size or value != path.read_bytes():
                        raise UserError(f"{output}: its {name} is not that of {source}; {remedy}")
                    report.kept += 1
                    continue
                error = _load_checked(path)[2]
                if error is None:
                    raise UserError(f"{output}: has no {name}; {remedy}")
                report.problems.append(error)
    except (OSError, lmdb.Error) as error:
        raise UserError(f"{output}: cannot be compared with {source} ({error}); {remedy}") from error
    return report


def _load_checked(path: Path) -> tuple[bytes, tuple[int, ...], str | None]:
    try:
        data = path.read_bytes()
        return data, decode_image(data, str(path)).shape, None
    except OSError as error:
        return b"", (), f"{path}: cannot be read ({error.strerror or error})"
    except UserError as error:
        return b"", (), str(error)


def _put_all(environment: Any, entries: list[tuple[bytes, bytes]]) -> None:
    """Store the entries in one transaction; when the map is full, double it and begin the transaction again."""
    import lmdb

    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, data in entries:
                    transaction.put(key, data)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


def read_meta_info(path: Path) -> list[str]:
    """Return the file names of a meta_info file, whose lines are ``NAME (h,w,c)``, with or without a last number; NAME may have spaces."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    return [re.sub(r" \(\d+,\d+,\d+\)( \d+)?$", "", line) for line in lines if line.strip()]


def write_meta(source: Path, output: Path, *, recursive: bool = False, workers: int = 1) -> Report:
    """Write a meta_info file: one line ``NAME (h,w,c)`` for every readable picture of a folder."""
    report = Report()
    files = _with_utf8_names(source, _images_or_error(source, recursive=recursive), report.problems)
    if output.resolve() in {path.resolve() for path in files}:
        raise UserError(f"{output}: is one of the pictures; give another --output")
    lines = []
    for path, description, error in _each(_describe, files, workers, "reading"):
        if error:
            report.problems.append(error)
        else:
            shape = description[0]
            lines.append(f"{path.relative_to(source).as_posix()} ({shape[0]},{shape[1]},{shape[2]})\n")
    if not lines:
        raise UserError(f"{source}: no file could be listed; the first problem: {report.problems[0]}")
    replace_file(output, "".join(sorted(lines)))
    report.written = len(lines)
    return report


def check(hr: Path, lr: Path | None = None, scale: int = 1, *, suffix: str | None = None, min_size: int = 1, workers: int = 1) -> Report:
    """Read every picture; report damaged files, small ones, mixed channels or depths, and, with ``lr``, missing partners and wrong sizes.

    A ground truth may be larger than scale x low resolution by less than the scale (mod-crop). ``written`` counts what was right.
    """
    if scale < 1:
        raise UserError(f"a scale is an integer of at least 1, not {scale}")
    truth, small = _images_or_error(hr), [] if lr is None else _images_or_error(lr)
    report = Report()
    found: dict[Path, tuple[tuple[int, ...], str]] = {}
    for path, description, error in _each(_describe, [*truth, *small], workers, "checking"):
        if error:
            report.problems.append(error)
        else:
            found[path] = description
    for folder, files in ((hr, truth), (lr, small)):
        kinds = {path: f"{found[path][0][2]} channels of {found[path][1]}" for path in files if path in found}
        for usual, _ in Counter(kinds.values()).most_common(1):
            report.problems += [f"{path}: {kind}; most of {folder} are {usual}" for path, kind in kinds.items() if kind != usual]
    for path in truth:
        if path in found and min(found[path][0][:2]) < min_size:
            report.problems.append(f"{path}: {found[path][0][1]}x{found[path][0][0]} is smaller than {min_size} pixels")
    if lr is not None:
        pairs = pair_by_name(truth, small, scale, suffix)
        report.problems += pairs.ambiguous
        report.problems += [f"{path}: no partner in {lr}" for path in pairs.truth_alone]
        report.problems += [f"{path}: no partner in {hr}" for path in pairs.other_alone]
        for first, second in pairs.both:
            if first in found and second in found:
                (h, w), (lr_h, lr_w) = found[first][0][:2], found[second][0][:2]
                if (h // scale, w // scale) != (lr_h, lr_w):
                    report.problems.append(
                        f"{second}: {lr_w}x{lr_h}, but {first.name} of {w}x{h} needs {w // scale}x{h // scale} at scale {scale}"
                    )
                if found[first][0][2] != found[second][0][2]:
                    report.problems.append(f"{second}: {found[second][0][2]} channels, but {first.name} has {found[first][0][2]}")
    report.written = len(found)
    return report


def _describe(path: Path) -> tuple[tuple[int, ...], str]:
    image = read_image(path)
    return image.shape, str(image.dtype)


# --- the embedded sample -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SamplePicture:
    """A picture that scikit-image ships inside its wheel, and the boxes (left, top, right, bottom) that are cut out of it."""

    file: str
    sha256: str
    part: str
    boxes: tuple[tuple[int, int, int, int], ...]
    licence: str


_NO_RESTRICTIONS = "no known copyright restrictions"
SAMPLE = (
    SamplePicture(
        "astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        "train",
        ((0, 0, 256, 512), (256, 0, 512, 512)),
        "public domain (NASA)",
    ),
    SamplePicture(
        "brick.png", "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf", "train", ((0, 0, 256, 256),), "CC0 (CC0Textures)"
    ),
    SamplePicture(
        "camera.png", "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a", "train", ((0, 0, 512, 512),), "CC0 (Lav Varshney)"
    ),
    SamplePicture(
        "coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        "val",
        ((0, 0, 300, 400), (300, 0, 600, 400)),
        "CC0 (Rachel Michetti)",
    ),
    SamplePicture(
        "grass.png", "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89", "train", ((0, 0, 256, 256),), "CC0 (Linolafett)"
    ),
    SamplePicture(
        "gravel.png", "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12", "train", ((0, 0, 256, 256),), "CC0 (CC0Textures)"
    ),
    SamplePicture(
        "ihc.png", "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef", "train", ((0, 0, 256, 512),), _NO_RESTRICTIONS
    ),
    SamplePicture(
        "chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        "train",
        ((0, 0, 224, 300), (224, 0, 448, 300)),
        "CC0 (Stefan van der Walt)",
    ),
    SamplePicture(
        "rocket.jpg",
        "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
        "val",
        ((180, 20, 480, 420),),
        "public domain (SpaceX)",
    ),
)


def make_sample(output: Path, *, overwrite: bool = False) -> Report:
    """Cut the embedded sample out of the pictures that the installed scikit-image ships: ``output/{train,val}/HR/NAME_1.png``.

    Nothing is downloaded. Gray pictures become RGB with three equal channels, so that one network takes all.
    """
    import skimage.data

    report = Report()
    for picture in SAMPLE:
        source = Path(skimage.data.__file__).parent / picture.file
        targets = [output / picture.part / "HR" / f"{Path(picture.file).stem}_{number + 1}.png" for number in range(len(picture.boxes))]
        missing = [overwrite or not target.exists() for target in targets]
        report.kept += missing.count(False)
        if not any(missing):
            continue
        if not source.is_file() or hashlib.sha256(source.read_bytes()).hexdigest() != picture.sha256:
            report.problems.append(f"{source}: this scikit-image does not ship the picture (or another version of it)")
            continue
        image = read_image(source)
        image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
        for (left, top, right, bottom), target, wanted in zip(picture.boxes, targets, missing, strict=True):
            if wanted:
                write_image(target, image[top:bottom, left:right])
                report.written += 1
    return report


# --- helpers -----------------------------------------------------------------------------------------------------------------------


def _images_or_error(folder: Path, recursive: bool = False) -> list[Path]:
    found = list_images(folder, recursive=recursive)
    if not found:
        raise UserError(f"{folder}: no picture here ({', '.join(IMAGE_EXTENSIONS)})")
    return found


def _each(function: Callable[[Any], Any], items: Sequence[Any], workers: int, title: str) -> Iterator[tuple[Any, Any, str | None]]:
    """Yield (item, result, error) in order, with a progress bar; ``error`` is the message of a `UserError`, else None."""
    from tqdm import tqdm

    task = partial(_guarded, function)
    if workers > 1 and len(items) >= _JOBS_WORTH_PROCESSES:
        # spawn, as a fork of a process in which torch has started threads may hang
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as processes:
            results = tqdm(processes.map(task, items), title, len(items), disable=None)
            yield from ((item, *outcome) for item, outcome in zip(items, results, strict=True))
    else:
        yield from ((item, *task(item)) for item in tqdm(items, title, disable=None))


def _guarded(function: Callable[[Any], Any], item: Any) -> tuple[Any, str | None]:
    try:
        return function(item), None
    except UserError as error:
        return None, str(error)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _with_utf8_names(folder: Path, files: Sequence[Path], problems: list[str]) -> list[Path]:
    """Return the files whose names below ``folder`` can be written as UTF-8; the others become problems."""
    kept = []
    for path in files:
        try:
            path.relative_to(folder).as_posix().encode()
            kept.append(path)
        except UnicodeEncodeError:
            problems.append(f"{os.fsencode(path).decode('utf-8', 'backslashreplace')}: the name is no UTF-8; rename the file")
    return kept


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]

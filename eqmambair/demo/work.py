"""What the page asks for: pictures restored, turns compared; one at a time, in memory."""

import io
import itertools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor

from eqmambair.data.io import Image, decode_image, to_float
from eqmambair.data.prepare import upscale
from eqmambair.errors import UserError
from eqmambair.inference.networks import load_trained
from eqmambair.inference.restore import Restorer

_ENDED = ("done", "failed", "stopped")
_KEPT_JOBS = 4  # finished ones; older results are forgotten
_TURNED_SIDE = 160  # pixels; turns are shown on the centre of a picture, without tiles
_AMPLIFIED = 32


@dataclass(frozen=True)
class Limits:
    """What an upload may be.

    Attributes:
        bytes: of the file.
        pixels: of the picture.
    """

    bytes: int = 20_000_000
    pixels: int = 4_000_000


@dataclass(frozen=True)
class Model:
    """Weights that the page offers: their file, and how many output pixels a side of an input pixel becomes."""

    file: Path
    scale: int


@dataclass
class Job:
    """One request and how far it is.

    Attributes:
        done: tiles, or passes through a network.
        total: of these; 0 before the first.
        state: "waiting", "working", "done", "failed" or "stopped".
        unwanted: whether it is to be given up, behind the tile or the network in work.
        error: one line, if it failed.
        pictures: PNG files by name.
        facts: what the page prints.
    """

    done: int = 0
    total: int = 0
    state: str = "waiting"
    unwanted: bool = False
    error: str = ""
    pictures: dict[str, bytes] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def count(self, done: int, total: int) -> None:
        """Note how far it is.

        Raises:
            _Unwanted: it is to be given up.
        """
        self.done, self.total = done, total
        if self.unwanted:
            raise _Unwanted


class _Unwanted(Exception):
    """Ends a job that is to be given up."""


class Workshop:
    """The networks of the page, loaded at first use, and its jobs, done one after the other, in the order in which they came.

    Args:
        models: by the name that the page shows.
        limits: of uploads.
        device: where networks run.
    """

    def __init__(self, models: Mapping[str, Model], limits: Limits | None = None, device: torch.device | str = "cpu") -> None:
        self.models, self.limits, self.device = dict(models), limits or Limits(), device
        self._restorers: dict[str, Restorer] = {}
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self._guard = threading.Lock()
        self._last: threading.Thread | None = None

    def model(self, name: str, tile: int | None = None) -> Restorer:
        """The network of a name, ready to restore.

        Raises:
            UserError: the page knows no such name, or the weights cannot be loaded.
        """
        if name not in self.models:
            raise UserError(f"no model is called {name!r}")
        if name not in self._restorers:
            self._restorers[name] = Restorer(load_trained(self.models[name].file), device=self.device)
        restorer = self._restorers[name]
        restorer.tile = tile
        return restorer

    def checked(self, data: bytes, name: str) -> Image:
        """The picture in an uploaded file.

        Raises:
            UserError: it is larger than allowed (seen before it is decoded), or no picture that `decode_image` takes.
        """
        if len(data) > self.limits.bytes:
            raise UserError(f"{name}: {len(data):,} bytes; at most {self.limits.bytes:,} are taken")
        try:
            with PillowImage.open(io.BytesIO(data)) as header:
                width, height = header.size
        except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError) as error:
            raise UserError(f"{name}: is not a picture, is damaged, or is too large") from error
        if width * height > self.limits.pixels:
            raise UserError(f"{name}: {width}x{height} pixels; at most {self.limits.pixels:,} are taken")
        return decode_image(data, name)

    def restore(self, data: bytes, name: str, model: str, tile: int | None = None) -> int:
        """Begin to restore a picture; returns the job's number.

        Args:
            data: of the file.
            name: of the file.
            model: one of ``models``.
            tile: side in input pixels, 0 for none, None for the usual.

        Raises:
            UserError: as `checked`; or the tile or the name is impossible.
        """
        image = self.checked(data, name)
        if model not in self.models:
            raise UserError(f"no model is called {model!r}")
        if tile is not None and not (tile == 0 or 16 <= tile <= 2048):
            raise UserError(f"a tile has 16 to 2048 pixels a side (0 = none), not {tile}")
        return self._begin(lambda job: self._restore(job, image, model, tile))

    def compare_turns(self, data: bytes, name: str, turns: int, models: tuple[str, str]) -> int:
        """Begin to compare f(turned) with turned f for two networks; returns the job's number.

        Args:
            data: of the file.
            name: of the file.
            turns: quarter turns, counter-clockwise, 0 to 3.
            models: two of ``models``.

        Raises:
            UserError: as `checked`; or the turn or a name is impossible.
        """
        image = self.checked(data, name)
        if turns not in range(4):
            raise UserError(f"a turn is 0, 90, 180 or 270 degrees, not {turns * 90}")
        if unknown := [each for each in models if each not in self.models]:
            raise UserError(f"no model is called {unknown[0]!r}")
        return self._begin(lambda job: self._compare(job, image, turns, models))

    def job(self, number: int) -> Job:
        """A job by its number.

        Raises:
            UserError: there is none, or it is forgotten.
        """
        with self._guard:
            if number not in self._jobs:
                raise UserError("this result is no longer kept; begin again")
            return self._jobs[number]

    def stop(self, number: int) -> None:
        """Give a job up, so that the next one begins; what is finished stays.

        Raises:
            UserError: as `job`.
        """
        self.job(number).unwanted = True

    def _begin(self, work: Callable[[Job], None]) -> int:
        job = Job()
        with self._guard:
            if sum(each.state not in _ENDED and not each.unwanted for each in self._jobs.values()) >= _KEPT_JOBS:
                raise UserError("too many pictures wait already; try again when one is done")
            number = next(self._numbers)
            self._jobs[number] = job
            for old in [key for key, each in self._jobs.items() if each.state in _ENDED][:-_KEPT_JOBS]:
                del self._jobs[old]
            self._last = threading.Thread(target=self._run, args=(job, work, self._last), daemon=True)
            self._last.start()
        return number

    def _run(self, job: Job, work: Callable[[Job], None], before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        job.state = "working"
        try:
            job.count(0, 0)
            work(job)
            job.state = "done"
        except _Unwanted:
            job.state = "stopped"
        except UserError as error:
            job.error, job.state = str(error), "failed"
        except Exception as error:  # the page has to say that nothing more will come
            job.error, job.state = f"{type(error).__name__}: {error}".splitlines()[0], "failed"
            raise

    def _restore(self, job: Job, image: Image, model: str, tile: int | None) -> None:
        restorer = self.model(model, tile)
        restored = restorer(image, lambda at: job.count(at.done, at.total))
        before = upscale(image, restorer.scale) if restorer.scale > 1 else image
        job.pictures = {"before": _png(before), "after": _png(restored)}
        job.facts = {"width": restored.shape[1], "height": restored.shape[0], "scale": restorer.scale}

    def _compare(self, job: Job, image: Image, turns: int, models: tuple[str, str]) -> None:
        top, left = ((side - min(side, _TURNED_SIDE)) // 2 for side in image.shape[:2])
        centre = to_float(image[top : top + _TURNED_SIDE, left : left + _TURNED_SIDE, :3])
        x = torch.from_numpy(np.ascontiguousarray(centre)).permute(2, 0, 1)[None]
        steps = 2 * len(models)
        job.pictures["input"] = _png(_pixels(torch.rot90(x, turns, (-2, -1))))
        rows = []
        for place, name in enumerate(models):
            restorer = self.model(name, 0)
            if restorer.channels not in (1, 3):
                raise UserError(f"{name} takes {restorer.channels} channels; pictures have 1 or 3")
            seen = x.expand(-1, 3, -1, -1) if restorer.channels == 3 else x.mean(1, keepdim=True)
            job.count(2 * place, steps)
            upright = restorer.restore_tensor(seen)
            job.count(2 * place + 1, steps)
            turned = restorer.restore_tensor(torch.rot90(seen, turns, (-2, -1)).contiguous())
            job.count(2 * place + 2, steps)
            difference = (turned.double() - torch.rot90(upright, turns, (-2, -1)).double()).abs()
            rows.append(
                {
                    "model": name,
                    "nmse": float(difference.square().sum() / upright.double().square().sum().clamp(min=1e-30)),
                    "largest": float(difference.max()) * 255,
                }
            )
            job.pictures[f"output{place}"] = _png(_pixels(turned))
            job.pictures[f"difference{place}"] = _png(_pixels(difference * _AMPLIFIED))
        job.facts = {"rows": rows, "amplified": _AMPLIFIED, "degrees": 90 * turns}


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    """(1, c, h, w) in [0, 1] as (h, w, c) of 8 bit."""
    return (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def _png(image: Image) -> bytes:
    order = [2, 1, 0, 3][: image.shape[2]] if image.shape[2] > 1 else [0]
    return bytes(cv2.imencode(".png", np.ascontiguousarray(image[:, :, order]))[1].tobytes())

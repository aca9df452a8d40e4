"""What a run tells: lines on the console and in a file, a progress bar, figures as JSON lines, and TensorBoard."""

import json
import logging
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from eqmambair.engine.schema import LoggerOptions
from eqmambair.errors import UserError
from eqmambair.files import replace_file

_log = logging.getLogger("eqmambair")


class _Console(logging.Handler):
    """Writes above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


class _File(logging.FileHandler):
    """Writes to a file; says once, on the console, if it cannot: what really matters has errors of its own."""

    _said = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._said:
            self._said = True
            tqdm.write(f"{self.baseFilename}: cannot be written ({sys.exc_info()[1]})", file=sys.stdout)


class TextLog(logging.Handler):
    """Keeps messages until it is told the file they belong to: a run writes nothing before it is sure to start."""

    def __init__(self) -> None:
        super().__init__()
        self.path: Path | None = None
        self._file: _File | None = None
        self._kept: list[logging.LogRecord] = []

    def open(self, path: Path) -> None:
        """Write what was kept and all that follows to the end of a file.

        Raises:
            UserError: it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _File(path, encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None
        self.path = path
        self._file.setFormatter(self.formatter)
        for record in self._kept:
            self._file.handle(record)
        self._kept = []

    def emit(self, record: logging.LogRecord) -> None:
        if self._file is None:
            self._kept.append(record)
        else:
            self._file.handle(record)

    def note(self, text: str) -> None:
        """Write a line that the console gets in another way."""
        self.handle(logging.LogRecord("eqmambair", logging.ERROR, __file__, 0, "error: %s", (text,), None))

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # said already
                self._file.close()
        super().close()


@contextmanager
def logging_to(file: Path | None = None, quiet: bool = False) -> Iterator[TextLog]:
    """Send the package's messages to the console and to a file, which may be named later; ``quiet``: to none."""
    text = TextLog()
    handlers: list[logging.Handler] = [] if quiet else [_Console(), text]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    if file is not None:
        text.open(file)
    for handler in handlers:
        _log.addHandler(handler)
    level, propagate = _log.level, _log.propagate
    _log.setLevel(logging.CRITICAL if quiet else logging.INFO)
    _log.propagate = False
    try:
        yield text
    finally:
        _log.setLevel(level)
        _log.propagate = propagate
        for handler in handlers:
            _log.removeHandler(handler)
            handler.close()


def progress_bar(total: int, what: str, *, show: bool, initial: int = 0, leave: bool = True) -> "tqdm[Any]":
    """A bar on a terminal; nothing elsewhere, where the lines of the log must do."""
    hidden = not (show and sys.stderr.isatty())
    return tqdm(total=total, initial=initial, desc=what, disable=hidden, leave=leave, dynamic_ncols=True, unit="step")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


class _Events:
    """TensorBoard's files of a run.

    Its writer is a thread that hands what fails on to whoever writes next, and ends with a traceback; the latter is left out.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder, self._hook = folder, threading.excepthook
        threading.excepthook = self._of_others
        try:
            from torch.utils.tensorboard import SummaryWriter

            with _writing(folder):
                self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        except BaseException:
            threading.excepthook = self._hook
            raise

    def scalar(self, name: str, value: float, step: int) -> None:
        with _writing(self._folder):
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        with _writing(self._folder):
            self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left; a warning says if that fails, for the run may have ended with an error of its own."""
        try:
            with _writing(self._folder):
                self._writer.close()
        except UserError as error:
            _log.warning("%s", error)
        finally:
            threading.excepthook = self._hook

    def _of_others(self, failed: Any) -> None:
        if not type(failed.thread).__module__.startswith("tensorboard."):
            self._hook(failed)


class Records:
    """The figures of a run in ``log.jsonl`` and TensorBoard, each step once, also after resuming.

    Args:
        folder: of the run.
        step: the step that the run goes on from; what was written for later ones is dropped.
        unvalidated: whether the validation of that step comes again.
    """

    def __init__(self, folder: Path, options: LoggerOptions, name: str, step: int = 0, unvalidated: bool = False) -> None:
        self._path = folder / "log.jsonl"
        self._keep(lambda line: line["step"] < step or (line["step"] == step and (line["kind"] == "train" or not unvalidated)))
        self._wandb: Any = None
        if options.wandb is not None and options.wandb.project:
            try:
                import wandb
            except ImportError:
                raise UserError("logger.wandb needs the package wandb: pip install wandb") from None
            resume = options.wandb.resume_id
            self._wandb = wandb.init(
                project=options.wandb.project, id=resume, resume="allow" if resume else None, name=name, dir=str(folder)
            )
        self._tensorboard = _Events(folder / "tb_logger", step) if options.use_tb_logger else None

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        """Figures of a step; ``kind`` is train, or the name of a validation set."""
        line = {"step": step, "kind": kind} | {key: value if math.isfinite(value) else str(value) for key, value in figures.items()}
        with _writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._tensorboard is not None:
            for key, value in figures.items():
                self._tensorboard.scalar(f"{kind}/{key}", value, step)
        if self._wandb is not None:
            self._wandb.log({f"{kind}/{key}": value for key, value in figures.items()}, step=step)

    def classes(self, step: int, kind: str, figures: dict[str, dict[str, float]]) -> None:
        """Figures of each class, class -> figure -> value; in TensorBoard alone."""
        if self._tensorboard is not None:
            for name, values in figures.items():
                for key, value in values.items():
                    self._tensorboard.scalar(f"{kind}_{key}/{name}", value, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture, uint8 (h, w, 3)."""
        if self._tensorboard is not None:
            self._tensorboard.picture(name, image, step)

    def close(self) -> None:
        """Write what is left."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if wanted(json.loads(line)):
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a killed run
        replace_file(self._path, "".join(f"{line}\n" for line in kept))

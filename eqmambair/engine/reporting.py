"""What a run says while it goes: how it begins, its steps, what was left out, validations, and how it ended."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from eqmambair.engine.distributed import Ranks
from eqmambair.engine.logs import Records
from eqmambair.engine.schema import Options
from eqmambair.engine.state import Progress
from eqmambair.engine.stepping import StepResult
from eqmambair.engine.validation import Results, ValidationSet
from eqmambair.files import replace_file
from eqmambair.models import Model

_log = logging.getLogger("eqmambair")


class Reporter:
    """Writes to the log, and once opened to the run's figures.

    Args:
        total: steps of the run.
    """

    def __init__(self, options: Options, ranks: Ranks, total: int) -> None:
        self.options, self.ranks, self.total = options, ranks, total
        self.folder = options.experiment_folder
        self._records: Records | None = None

    def open(self, progress: Progress) -> None:
        """Begin to write figures, from this step on."""
        if self.ranks.is_main:
            self._records = Records(self.folder, self.options.logger, self.options.name, progress.step, progress.unvalidated)

    def close(self) -> None:
        """Write what is left."""
        if self._records is not None:
            self._records.close()

    def begin(self, model: Model, samples: int, samples_per_step: int, sets: Sequence[ValidationSet]) -> None:
        """The network, the data, and how long it all is."""
        parameters = sum(parameter.numel() for parameter in model.network.parameters())
        _log.info("%s: %s with %s parameters on %s", self.options.name, type(model.network).__name__, f"{parameters:,}", self.ranks.device)
        epochs = f"{self.total} steps = {self.total * samples_per_step / samples:.1f} epochs"
        _log.info("%d training samples, %d a step (%d ranks), %s", samples, samples_per_step, self.ranks.world, epochs)
        for each in sets:
            _log.info("%s: %d validation samples", each.name, len(each.indices))

    def step(self, step: int, result: StepResult, speed: float, left: float, skipped: int, scale: float | None) -> None:
        """A step: losses averaged over all ranks, so every rank must call it.

        Args:
            speed: samples a second, of all ranks.
            left: seconds to the end.
            skipped: files left out so far.
            scale: of fp16's gradients.
        """
        losses = self.ranks.mean(result.losses)
        shown = {"loss": losses["loss"]} | (losses if len(losses) > 2 else {})
        parts = [f"{key} {value:.4e}" for key, value in shown.items()]
        parts += [f"lr {result.rate:.3e}", f"gradient {result.grad_norm:.3g}"]
        parts += [f"scale {scale:g}"] if scale is not None else []
        parts += [f"{speed:.3g} img/s", f"{duration(left)} left"]
        parts += [f"{skipped} files left out"] if skipped else []
        _log.info("step %d/%d: %s", step, self.total, ", ".join(parts))
        if self._records is not None:
            figures = {**losses, "lr": result.rate, "grad_norm": result.grad_norm, "images_per_second": speed}
            self._records.write(step, "train", figures)

    def left_out(self, step: int, result: StepResult, write: bool) -> None:
        """A step that was not finite: figures and names of its samples, in the log and (if ``write``) in a file of each rank."""
        names = result.bad or []
        what = f"loss {result.losses['loss']}, gradient norm {result.grad_norm}"
        _log.warning("step %d left out: not finite (%s); samples: %s", step, what, ", ".join(names) or "unnamed")
        if write:
            facts = {"step": step, "losses": {key: str(value) for key, value in result.losses.items()}, "samples": names}
            path = self.folder / "nonfinite" / f"step_{step:08d}_rank{self.ranks.rank}.json"
            replace_file(path, json.dumps({**facts, "gradient_norm": str(result.grad_norm)}, indent=1))

    def validation(self, step: int, results: Results) -> None:
        """What a validation measured, and its pictures."""
        for each in results.sets:
            figures = ", ".join(f"{key} {value:.4f}" for key, value in each.summary.items()) or "nothing to measure"
            _log.info("step %d: %s (%d samples, %.1f s): %s", step, each.name, len(each.records), each.seconds, figures)
            if self._records is not None:
                self._records.write(step, each.name, each.summary)
                self._records.classes(step, each.name, each.classes)
                for record in each.records:
                    for title, picture in record.pictures.items():
                        self._records.picture(step, f"{each.name}/{record.name}/{title}", picture)

    def end(self, progress: Progress) -> None:
        """Best and last, and where things are."""
        _log.info("finished: %d steps", progress.step)
        for metric, (value, step) in progress.best.items():
            _log.info("best %s %.4f at step %d: %s", metric, value, step, best_weights(self.folder, metric))
        if progress.nonfinite:
            _log.info("%d steps were left out because they were not finite", progress.nonfinite)
        _log.info("weights: %s", latest_weights(self.folder))
        _log.info("states: %s, log: %s", self.folder / "training_states", self.folder / "log.jsonl")


def latest_weights(folder: Path) -> Path:
    """The newest weights of a run."""
    return folder / "models" / "net_g_latest.pth"


def best_weights(folder: Path, metric: str) -> Path:
    """The weights of a run that were best by a metric."""
    return folder / "models" / f"net_g_best_{metric}.pth"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as h:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"

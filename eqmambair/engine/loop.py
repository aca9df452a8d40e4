"""The training loop of every task: exactly ``total_iter`` steps, validation, checkpoints, and a way back after any interruption."""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eqmambair.data.checking import check_dataset
from eqmambair.engine import randomness, resuming, state
from eqmambair.engine.distributed import Ranks
from eqmambair.engine.interrupts import INTERRUPTED, Interrupts
from eqmambair.engine.loader import Batches, training_batches
from eqmambair.engine.logs import Records, progress_bar
from eqmambair.engine.schedule_free import AdamWScheduleFree
from eqmambair.engine.schema import Options
from eqmambair.engine.stepping import Stepper, StepResult
from eqmambair.engine.store import StateStore, copy_file, replace_file, tensor_writer, text_writer
from eqmambair.engine.validation import Results, ValidationSet, validate
from eqmambair.errors import UserError
from eqmambair.models import Model, find_model

_log = logging.getLogger("eqmambair")


@dataclass(frozen=True)
class RunMode:
    """How the command was given.

    Args:
        auto_resume: go on from the newest whole state, if there is one.
        dry: two steps and one validation sample a set; nothing is written.
        accept_changes: resume though options differ that change the outcome.
    """

    auto_resume: bool = False
    dry: bool = False
    accept_changes: bool = False


class Trainer:
    """One run, from the first step or from a saved state to ``total_iter``.

    Args:
        options: checked options with a section ``train``.
        ranks: this process among all.
        mode: how the command was given.
    """

    def __init__(self, options: Options, ranks: Ranks, mode: RunMode) -> None:
        assert options.train is not None
        self.options, self.train, self.ranks, self.mode = options, options.train, ranks, mode
        self.folder = options.experiment_folder
        self.store = StateStore(self.folder / "training_states", options.logger.keep_last, options.logger.keep_every)
        if options.deterministic:
            randomness.be_deterministic()
        randomness.seed_all(options.manual_seed)
        self.model: Model = find_model(options.model_type)(options, ranks.device)
        self.dataset, self.indices = self._dataset()
        self.sets = validation_sets(self.model, options)
        self.stepper = Stepper(self.model, self.model.network, self.train, ranks)
        self.progress = state.Progress()
        self.records: Records | None = None
        self._saved_step = -1
        self._resume()
        self.stepper.network = self._wrapped()

    def _dataset(self) -> tuple[Any, list[int]]:
        section = self.options.datasets["train"]
        dataset = self.model.build_dataset(section, "train")
        return dataset, check_dataset(dataset, section.check, section.on_bad_file, "datasets.train")

    def _resume(self) -> None:
        """Find a state to go on from and put it back; otherwise seed this rank's generators."""
        place = None if self.mode.dry else resuming.find(self.options, self.store, self.mode.auto_resume, self.ranks)
        if place is None:
            randomness.seed_all(self.options.manual_seed, self.ranks.rank + 1)
            return
        saved = state.read_state(place)
        resuming.compare(self.options, saved, self._samples(), self.ranks.world, self.mode.accept_changes)
        self.progress = state.apply(place, saved, self.stepper, self.ranks)
        state.restore_generators(saved, self.ranks)
        if place.parent.resolve() == self.store.folder.resolve():
            self._saved_step = self.progress.step
            if self.ranks.is_main:
                self.store.set_aside_after(self.progress.step)
                copy_file(place / state.WEIGHTS, self.folder / "models" / "net_g_latest.pth")  # a kill may have come before it was made
        _log.info("going on from %s (step %d)", place, self.progress.step)

    def _samples(self) -> str:
        describe: Callable[[int], str] = getattr(self.dataset, "key", str)
        return state.fingerprint([describe(index) for index in self.indices])

    def _wrapped(self) -> nn.Module:
        network = self.model.network
        if self.train.compile:
            network = torch.compile(network)  # type: ignore[assignment]
        if self.ranks.world > 1:
            devices = [self.ranks.device.index] if self.ranks.device.type == "cuda" else None
            unused = self.options.find_unused_parameters
            return nn.parallel.DistributedDataParallel(network, device_ids=devices, find_unused_parameters=unused, broadcast_buffers=False)
        return network

    def run(self) -> int:
        """Train to the end, or until a signal asks to stop.

        Returns:
            The exit status: 0, or ``INTERRUPTED``.
        """
        self._describe()
        if self.mode.dry:
            return self._dry()
        section = self.options.datasets["train"]
        count = self.train.accumulate
        first, last = self.progress.step * count, self.train.total_iter * count
        if self.progress.step > self.train.total_iter:
            raise UserError(f"the run is at step {self.progress.step} already, beyond total_iter ({self.train.total_iter})")
        if self.ranks.is_main:
            self.records = Records(self.folder, self.options.logger, self.options.name, self.progress.step, self.progress.unvalidated)
        batches = training_batches(
            self.dataset,
            section,
            self.model.collate,
            self.ranks,
            seed=self.options.manual_seed,
            first=first,
            last=last,
            accumulate=count,
            indices=self.indices,
        )
        try:
            with Interrupts() as interrupts:
                status = self._loop(batches, interrupts)
        finally:
            batches.close()
            if self.records is not None:
                self.records.close()
        return status

    def _loop(self, batches: Batches, interrupts: Interrupts) -> int:
        total = self.train.total_iter
        stop = self._validate(interrupts) if self.progress.unvalidated else False
        started, samples, begun = time.monotonic(), 0, self.progress.step
        with progress_bar(total, self.options.name, show=self.ranks.is_main, initial=self.progress.step) as bar:
            while self.progress.step < total and not stop:
                result = self.stepper.step(self.progress.step, batches, stop=interrupts.name is not None)
                self.progress.step += 1
                samples += result.samples * self.ranks.world
                stop = result.wanted_stop
                self._guard(result)
                speed = samples / max(time.monotonic() - started, 1e-9)
                bar.set_postfix_str(f"loss {result.losses['loss']:.4g}, lr {result.rate:.3g}, {speed:.3g} img/s", refresh=False)
                bar.update(1)
                if self._due(self.options.logger.print_freq):
                    left = (total - self.progress.step) * (time.monotonic() - started) / (self.progress.step - begun)
                    self._report(result, speed, left, batches.skipped)
                if self.options.val is not None and self.sets and self._due(self.options.val.val_freq):
                    self.progress.unvalidated = True
                    if not stop:
                        pause = time.monotonic()
                        stop = self._validate(interrupts)
                        started += time.monotonic() - pause
                if stop or self._due(self.options.logger.save_checkpoint_freq):
                    self._save()
        if stop:
            name = self.ranks.gather(interrupts.name)
            _log.info("stopped by %s after step %d; --auto_resume goes on", next(filter(None, name), "a signal"), self.progress.step)
            return INTERRUPTED
        self._save()
        self._summary()
        return 0

    def _due(self, every: int) -> bool:
        return self.progress.step % every == 0 or self.progress.step == self.train.total_iter

    def _guard(self, result: StepResult) -> None:
        """Name a step that was left out; end the run when there were too many."""
        step = self.progress.step
        if result.overflow:
            _log.info("step %d: fp16 overflow, step left out, scale now %g", step, self.stepper.scaler.get_scale())
        if result.bad is None:
            return
        self.progress.nonfinite += 1
        what = f"loss {result.losses['loss']}, gradient norm {result.grad_norm}"
        _log.warning("step %d left out: not finite (%s); samples: %s", step, what, ", ".join(result.bad) or "unnamed")
        if not self.mode.dry:
            path = self.folder / "nonfinite" / f"step_{step:08d}_rank{self.ranks.rank}.json"
            facts = {"step": step, "losses": {key: str(value) for key, value in result.losses.items()}, "samples": result.bad}
            replace_file(path, text_writer(json.dumps({**facts, "gradient_norm": str(result.grad_norm)}, indent=1)))
        if self.progress.nonfinite > self.train.nonfinite_limit:
            raise UserError(
                f"step {step}: loss or gradient is not finite for the {self.progress.nonfinite}th time (train.nonfinite_limit"
                f" {self.train.nonfinite_limit}); the last checkpoint is sound"
            )

    def _report(self, result: StepResult, speed: float, left: float, skipped: int) -> None:
        losses = self.ranks.mean(result.losses)
        scale = f", scale {self.stepper.scaler.get_scale():g}" if self.stepper.scaler.is_enabled() else ""
        shown = {"loss": losses["loss"]} | (losses if len(losses) > 2 else {})
        parts = ", ".join(f"{key} {value:.4e}" for key, value in shown.items())
        _log.info(
            "step %d/%d: %s, lr %.3e, gradient %.3g%s, %.3g img/s, %s left%s",
            self.progress.step,
            self.train.total_iter,
            parts,
            result.rate,
            result.grad_norm,
            scale,
            speed,
            duration(left),
            f", {skipped} files left out" if skipped else "",
        )
        if self.records is not None:
            figures = {**losses, "lr": result.rate, "grad_norm": result.grad_norm, "images_per_second": speed}
            self.records.write(self.progress.step, "train", figures)

    def _samples_per_step(self) -> int:
        return self.options.datasets["train"].batch_size_per_gpu * self.ranks.world * self.train.accumulate

    def _validate(self, interrupts: Interrupts) -> bool:
        """Validate, note the best; returns whether a stop was asked for meanwhile (the validation is then still due)."""
        val = self.options.val
        assert val is not None
        save_to = self.folder / "visualization" / f"step_{self.progress.step:08d}" if val.save_img else None
        results = self.measure(
            save_to=save_to,
            suffix=val.suffix if val.suffix is not None else self.options.name,
            pictures=self.options.logger.image_grids,
            bar=val.pbar,
            should_stop=lambda: interrupts.name is not None,
        )
        if results.stopped:
            return True
        self.progress.unvalidated = False
        self._note(results)
        return False

    def measure(self, **arguments: Any) -> Results:
        """Validate the weights that one would publish: averaged ones where there are."""
        average = self.stepper.average
        network = average.network if average is not None else self.model.network
        optimizer = self.stepper.optimizer
        swap = optimizer.averaged() if average is None and isinstance(optimizer, AdamWScheduleFree) else contextlib.nullcontext()
        with randomness.isolated(), swap:
            return validate(self.model, network, self.sets, self.ranks, seed=self.options.manual_seed, **arguments)

    def _note(self, results: Results) -> None:
        step = self.progress.step
        for each in results.sets:
            figures = ", ".join(f"{key} {value:.4f}" for key, value in each.summary.items())
            _log.info(
                "step %d: %s (%d samples, %.1f s): %s", step, each.name, len(each.records), each.seconds, figures or "nothing to measure"
            )
            if self.records is not None:
                self.records.write(step, each.name, each.summary)
                for record in each.records:
                    for title, picture in record.pictures.items():
                        self.records.picture(step, f"{each.name}/{record.name}/{title}", picture)
        for metric, value in results.means().items():
            if metric.endswith("_not_finite") or not math.isfinite(value):
                continue
            old = self.progress.best.get(metric)
            if old is None or (value > old[0] if self.model.higher_is_better(metric) else value < old[0]):
                self.progress.best[metric] = [value, step]
                if self.ranks.is_main:
                    path = self.folder / "models" / f"net_g_best_{metric}.pth"
                    replace_file(path, tensor_writer(state.weights(self.stepper, self.options)))

    def _save(self) -> None:
        """Write a checkpoint, and let ``net_g_latest`` be its weights; a failure on the main rank ends all ranks."""
        step = self.progress.step
        problem: str | None = None
        if step == self._saved_step:
            return
        try:
            collected = state.collect(self.stepper, self.options, self.progress, self.ranks, self._samples())
            if collected is not None:
                self._write(step, *collected)
        except UserError as error:
            problem = str(error)
        problem = self.ranks.from_main(problem)
        if problem is not None:
            raise UserError(problem)
        self._saved_step = step

    def _write(self, step: int, files: dict[str, Any], needed: int) -> None:
        place = self.store.save(step, files, needed)
        models = self.folder / "models"
        copy_file(place / state.WEIGHTS, models / "net_g_latest.pth")
        if self.options.logger.safetensors:
            resuming.write_safetensors(state.weights(self.stepper, self.options), models / "net_g_latest.safetensors")
        _log.info("step %d: saved %s", step, place)

    def _describe(self) -> None:
        network = self.model.network
        parameters = sum(parameter.numel() for parameter in network.parameters())
        _log.info("%s: %s with %s parameters on %s", self.options.name, type(network).__name__, f"{parameters:,}", self.ranks.device)
        _log.info(
            "%d training samples, %d a step (%d ranks), %d steps = %.1f epochs",
            len(self.indices),
            self._samples_per_step(),
            self.ranks.world,
            self.train.total_iter,
            self.train.total_iter * self._samples_per_step() / len(self.indices),
        )
        for each in self.sets:
            _log.info("%s: %d validation samples", each.name, len(each.indices))

    def _dry(self) -> int:
        batches = training_batches(
            self.dataset,
            self.options.datasets["train"],
            self.model.collate,
            self.ranks,
            seed=self.options.manual_seed,
            first=0,
            last=2 * self.train.accumulate,
            accumulate=self.train.accumulate,
            indices=self.indices,
        )
        try:
            for step in range(2):
                result = self.stepper.step(step, batches)
                self.progress.step += 1
                self._guard(result)
                _log.info("step %d: loss %.4e, lr %.3e, gradient %.3g", step + 1, result.losses["loss"], result.rate, result.grad_norm)
        finally:
            batches.close()
        for each in self.measure(bar=False, most=self.ranks.world).sets:
            _log.info("%s: %s", each.name, ", ".join(f"{key} {value:.4f}" for key, value in each.summary.items()) or "nothing to measure")
        _log.info("dry run done, nothing was written")
        return 0

    def _summary(self) -> None:
        _log.info("finished: %d steps", self.progress.step)
        for metric, (value, step) in self.progress.best.items():
            _log.info("best %s %.4f at step %d: %s", metric, value, step, self.folder / "models" / f"net_g_best_{metric}.pth")
        if self.progress.nonfinite:
            _log.info("%d steps were left out because they were not finite", self.progress.nonfinite)
        _log.info("weights: %s", self.folder / "models" / "net_g_latest.pth")
        _log.info("states: %s, log: %s", self.store.folder, self.folder / "log.jsonl")


def validation_sets(model: Model, options: Options) -> list[ValidationSet]:
    """The data sets val, val_2, test_1, ... of the options, checked."""
    found: list[ValidationSet] = []
    taken: set[str] = set()
    for key, section in options.sections("val", "test").items():
        name = section.name or key
        if name in taken:
            raise UserError(f"datasets.{key}.name: two sets are called {name!r}")
        taken.add(name)
        dataset = model.build_dataset(section, "val")
        indices: Sequence[int] = check_dataset(dataset, section.check, section.on_bad_file, f"datasets.{key}")
        found.append(ValidationSet(key, name, section, dataset, indices))
    return found


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as h:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def log_file(options: Options) -> Path:
    """The text log of a run."""
    return options.experiment_folder / "train.log"

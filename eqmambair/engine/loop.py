"""The training loop of every task: exactly ``total_iter`` steps, validation, checkpoints, and a way back after any interruption."""

import contextlib
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
from eqmambair.engine.distributed import Ranks, joined
from eqmambair.engine.interrupts import INTERRUPTED, Interrupts
from eqmambair.engine.loader import Batches, training_batches
from eqmambair.engine.logs import progress_bar
from eqmambair.engine.reporting import Reporter, best_weights, latest_weights
from eqmambair.engine.schedule_free import AdamWScheduleFree
from eqmambair.engine.schema import Options
from eqmambair.engine.stepping import Stepper, StepResult
from eqmambair.engine.store import StateStore, copy_file, tensor_writer
from eqmambair.engine.validation import Results, ValidationSet, validate
from eqmambair.errors import UserError
from eqmambair.files import replace_file
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

    Attributes:
        continues: whether it goes on from a state of its own folder, rather than begin in an empty one.
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
        self.reporter = Reporter(options, ranks, self.train.total_iter)
        self._saved_step = -1
        self.continues = False
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
        if self.progress.step > self.train.total_iter:
            raise UserError(f"the run is at step {self.progress.step} already, beyond total_iter ({self.train.total_iter})")
        self.progress.unvalidated &= self.options.val is not None and bool(self.sets)
        state.restore_generators(saved, self.ranks)
        if place.parent.resolve() == self.store.folder.resolve():
            self.continues = True
            self._saved_step = self.progress.step
            if self.ranks.is_main:
                self.store.set_aside_after(self.progress.step)
                copy_file(place / state.WEIGHTS, latest_weights(self.folder))  # a kill may have come before it was made
        _log.info("going on from %s (step %d)", place, self.progress.step)

    def _samples(self) -> str:
        key: Callable[[int], str] = getattr(self.dataset, "key", str)  # a data set without names is told by its numbers
        return state.fingerprint([key(index) for index in self.indices])

    def _wrapped(self) -> nn.Module:
        network = self.model.network
        if self.train.compile:
            network = torch.compile(network)  # type: ignore[assignment]
        if self.ranks.world > 1:
            devices = [self.ranks.device.index] if self.ranks.device.type == "cuda" else None
            return joined(network, devices, self.options.find_unused_parameters)
        return network

    def run(self) -> int:
        """Train to the end, or until a signal asks to stop.

        Returns:
            The exit status: 0, or ``INTERRUPTED``.
        """
        self.reporter.begin(self.model, len(self.indices), self._samples_per_step(), self.sets)
        if self.mode.dry:
            return self._dry()
        section = self.options.datasets["train"]
        count = self.train.accumulate
        first, last = self.progress.step * count, self.train.total_iter * count
        self.reporter.open(self.progress)
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
            self.reporter.close()
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
                    scale = self.stepper.scaler.get_scale() if self.stepper.scaler.is_enabled() else None
                    self.reporter.step(self.progress.step, result, speed, left, batches.skipped, scale)
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
        self.reporter.end(self.progress)
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
        self.reporter.left_out(step, result, write=not self.mode.dry)
        if self.progress.nonfinite > self.train.nonfinite_limit:
            raise UserError(
                f"step {step}: loss or gradient is not finite for the {self.progress.nonfinite}th time (train.nonfinite_limit"
                f" {self.train.nonfinite_limit}); the last checkpoint is sound"
            )

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
        self._saved_step = -1  # a state of this step says that it is still due
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
        self.reporter.validation(step, results)
        for metric, value in results.means().items():
            if metric.endswith("_not_finite") or not math.isfinite(value):
                continue
            old = self.progress.best.get(metric)
            if old is None or (value > old[0] if self.model.higher_is_better(metric) else value < old[0]):
                self.progress.best[metric] = [value, step]
                if self.ranks.is_main:
                    replace_file(best_weights(self.folder, metric), tensor_writer(state.weights(self.stepper, self.options)))

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
        latest = latest_weights(self.folder)
        copy_file(place / state.WEIGHTS, latest)
        if self.options.logger.safetensors:
            resuming.write_safetensors(state.weights(self.stepper, self.options), latest.with_suffix(".safetensors"))
        _log.info("step %d: saved %s", step, place)

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


def log_file(options: Options) -> Path:
    """The text log of a run."""
    return options.experiment_folder / "train.log"

"""What the commands train and test do once their arguments are parsed."""

import contextlib
import json
import logging
import math
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from eqmambair.engine import randomness, resuming
from eqmambair.engine.distributed import Launcher, Ranks, processes
from eqmambair.engine.lock import held
from eqmambair.engine.logs import TextLog, logging_to
from eqmambair.engine.loop import RunMode, Trainer, log_file, validation_sets
from eqmambair.engine.options import dump_options
from eqmambair.engine.schema import Options
from eqmambair.engine.validation import Results, validate
from eqmambair.errors import UserError
from eqmambair.files import replace_file
from eqmambair.inference.tiling import is_out_of_memory
from eqmambair.models import find_model

_log = logging.getLogger("eqmambair")
_MOST_LINES = 200  # of a set whose images have a line each in the table of results


def train(options: Options, mode: RunMode, launcher: Launcher, warnings: Sequence[str]) -> int:
    """Train; returns the exit status (0, or ``INTERRUPTED`` after a signal).

    Raises:
        UserError: whatever goes wrong, in one line; the traceback of what was not foreseen is in the log.
    """
    with processes(launcher, options) as ranks:
        alone = contextlib.nullcontext() if mode.dry else held(options, ranks)
        with logging_to(quiet=not ranks.is_main) as log, alone:
            for warning in warnings:
                _log.warning("%s", warning)
            if isinstance(options.num_gpu, int) and options.num_gpu > ranks.world and ranks.device.type == "cuda":
                _log.warning(
                    "num_gpu is %d, but a process uses one GPU and there are %d; torchrun --nproc_per_node=%d would use all",
                    options.num_gpu,
                    ranks.world,
                    options.num_gpu,
                )
            try:
                trainer = Trainer(options, ranks, mode)
                if not mode.dry:
                    ranks.on_main(lambda: _settle(options, log, keep=trainer.continues or mode.auto_resume))
                return trainer.run()
            except UserError as error:
                log.note(str(error))
                raise
            except Exception as error:
                if ranks.is_main and not mode.dry and log.path is None:
                    log.open(options.experiment_folder.with_name(f"{options.name}_failed.log"))
                raise _unforeseen(error, log) from error


def _settle(options: Options, log: TextLog, keep: bool) -> None:
    """Take the run's folder, now that nothing was refused; unless ``keep``, what is there belongs to an older run."""
    if not keep:
        resuming.set_aside(options)
    log.open(log_file(options))
    replace_file(options.experiment_folder / "options.yml", dump_options(options))


def test(options: Options, launcher: Launcher, warnings: Sequence[str]) -> int:
    """Measure a network on every data set of the options; writes a table, pictures if wanted, and results.json.

    Raises:
        UserError: no weights are given, or whatever else goes wrong.
    """
    if options.path.pretrain_network_g is None:
        raise UserError("testing needs weights: give path.pretrain_network_g")
    folder = options.resolve(options.path.results_root) / options.name
    with processes(launcher, options) as ranks:
        file = folder / "test.log" if ranks.is_main else None
        with logging_to(file, quiet=not ranks.is_main) as log:
            for warning in warnings:
                _log.warning("%s", warning)
            try:
                results = _measure(options, ranks, folder)
            except UserError as error:
                log.note(str(error))
                raise
            except Exception as error:
                raise _unforeseen(error, log) from error
            if ranks.is_main:
                for each in results.sets:
                    if not any(record.values for record in each.records):
                        why = "no truth" if options.val is not None and options.val.metrics else "no metrics in val"
                        _log.warning("%s: %s, nothing is measured", each.name, why)
                for line in table(results):
                    _log.info("%s", line)
                replace_file(folder / "results.json", json.dumps(_as_json(options, results), indent=1))
                _log.info("results: %s", folder / "results.json")
    return 0


def _measure(options: Options, ranks: Ranks, folder: Path) -> Results:
    if options.deterministic:
        randomness.be_deterministic()
    randomness.seed_all(options.manual_seed)
    model = find_model(options.model_type)(options, ranks.device)
    sets = validation_sets(model, options)
    val = options.val
    return validate(
        model,
        model.network,
        sets,
        ranks,
        seed=options.manual_seed,
        save_to=folder / "visualization" if val is not None and val.save_img else None,
        suffix=(val.suffix if val is not None and val.suffix is not None else options.name),
        bar=val is None or val.pbar,
    )


def table(results: Results) -> list[str]:
    """A table of each set: one line an image (if they are not too many), one a class, and the figures of the whole set."""
    lines: list[str] = []
    for each in results.sets:
        own = dict.fromkeys(key for record in each.records for key in record.values)
        keys = list(own | dict.fromkeys(key for key in each.summary if key not in own and not key.endswith("_not_finite")))
        width = max([len(record.name) for record in each.records] + [len(each.name) + 8])
        lines += ["", f"{each.name:<{width}}  " + "  ".join(f"{key:>10}" for key in keys)]
        shown = each.records if len(each.records) <= _MOST_LINES else []
        rows = [(record.name, record.values) for record in shown] + list(each.classes.items())
        lines += [f"{name:<{width}}  " + "  ".join(_cell(values, key) for key in keys) for name, values in rows]
        lines.append(
            f"{'mean of ' + str(len(each.records)):<{width}}  " + "  ".join(f"{each.summary.get(key, math.nan):>10.4f}" for key in keys)
        )
    return lines


def _cell(values: dict[str, Any], key: str) -> str:
    return f"{values[key]:>10.4f}" if key in values else " " * 10


def _as_json(options: Options, results: Results) -> dict[str, Any]:
    def plain(values: dict[str, Any]) -> dict[str, Any]:
        return {key: value if not isinstance(value, float) or math.isfinite(value) else str(value) for key, value in values.items()}

    protocol = {key: dict(spec) for key, spec in options.val.metrics.items()} if options.val is not None else {}
    sets = {each.name: {"mean": plain(each.summary), "images": {r.name: plain(r.values) for r in each.records}} for each in results.sets}
    for each in results.sets:
        if each.classes:
            sets[each.name]["classes"] = {name: plain(values) for name, values in each.classes.items()}
    return {"name": options.name, "weights": options.path.pretrain_network_g, "metrics": protocol, "sets": sets}


def _unforeseen(error: Exception, log: TextLog) -> UserError:
    """One line for what was not foreseen; the traceback goes to the log."""
    text = " ".join(str(error).split())[:300]
    log.note(traceback.format_exc())
    where = f" (traceback in {log.path})" if log.path is not None else ""
    if is_out_of_memory(error):
        return UserError(f"memory is exhausted: reduce batch_size_per_gpu, gt_size or val.tile{where}")
    if isinstance(error, torch.distributed.DistError) or "Connection closed by peer" in text or "Connection reset by peer" in text:
        return UserError(f"another process of the run has ended{where}: {text}")
    return UserError(f"{type(error).__name__}: {text or 'no message'}{where}")

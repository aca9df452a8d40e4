"""Whether and from where a run goes on, and what may have changed meanwhile."""

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from eqmambair.engine import changes
from eqmambair.engine.distributed import Ranks
from eqmambair.engine.schema import Options
from eqmambair.engine.store import StateStore
from eqmambair.errors import UserError
from eqmambair.files import replace_file

_log = logging.getLogger("eqmambair")
_NO_RUN = ("train.log", "options.yml")  # all that a run leaves which ended before its first step


def holds_run(folder: Path) -> bool:
    """Whether there is a run in a folder that made a step."""
    return folder.is_dir() and any(each.name not in _NO_RUN for each in folder.iterdir())


def set_aside(options: Options) -> None:
    """Rename the folder of an older run of this name, so that nothing of it is lost or mixed with the new one."""
    folder = options.experiment_folder
    if not holds_run(folder):
        return
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S_%f")
    target = folder.with_name(f"{folder.name}_archived_{stamp}")
    try:
        folder.rename(target)
    except OSError as error:
        raise UserError(f"{folder}: the older run cannot be renamed: {error.strerror}") from None
    _log.info("an older run of this name was renamed to %s (--auto_resume would have gone on with it)", target)


def find(options: Options, store: StateStore, auto_resume: bool, ranks: Ranks) -> Path | None:
    """Folder of the state to go on from, the same on all ranks; None to start at step 0.

    Raises:
        UserError: ``path.resume_state`` names no whole state, or the run has states and all of them are damaged.
    """
    return ranks.on_main(lambda: _find(options, store, auto_resume))


def _find(options: Options, store: StateStore, auto_resume: bool) -> Path | None:
    if auto_resume:
        place = store.newest()
        if place is not None:
            return place
        if store.steps():
            raise UserError(f"{store.folder}: all {len(store.steps())} states are damaged; without --auto_resume the run starts anew")
    if options.path.resume_state is not None:
        place = options.resolve(options.path.resume_state)
        if not place.is_dir():
            raise UserError(f"path.resume_state: {place}: no such folder; states are those in experiments/NAME/training_states")
        problem = store.damage(place)
        if problem is not None:
            raise UserError(f"path.resume_state: {place}: {problem}")
        return place
    if auto_resume:
        _log.info("no state in %s: starting at step 0", store.folder)
    return None


def compare(options: Options, saved: dict[str, Any], samples: str, world: int, accept: bool) -> None:
    """List what has changed since the state was saved; refuse what would make it another run.

    Raises:
        UserError: the network changed, or anything that changes the outcome and ``accept`` is not given.
    """
    before = {**saved["options"], "training samples": saved["samples"], "processes": len(saved["generators"])}
    now = {**options.model_dump(mode="json"), "training samples": samples, "processes": world}
    found = changes.changes(before, now)
    never = {key: value for key, value in found.items() if changes.kind(key) == "never"}
    asked = {key: value for key, value in found.items() if changes.kind(key) == "asked"}
    if never:
        raise UserError(f"resuming with another network or optimizer is not possible: {changes.listed(never)}")
    if asked and not accept:
        raise UserError(f"options changed since the state was saved: {changes.listed(asked)}; --accept_changes applies them")
    if found:
        _log.info("changed since the state was saved, and applied: %s", changes.listed(found))


def write_safetensors(content: dict[str, Any], path: Path) -> None:
    """Write the weights to use (the averaged ones where there are) with the network's options as metadata."""
    import json

    from safetensors.torch import save

    tensors = content.get("params_ema", content["params"])
    data = save(
        {key: value.contiguous() for key, value in tensors.items() if isinstance(value, torch.Tensor)},
        metadata={"network_g": json.dumps(content["network_g"]), "scale": str(content["scale"])}
        | ({"card": json.dumps(content["card"])} if "card" in content else {}),
    )
    replace_file(path, data)

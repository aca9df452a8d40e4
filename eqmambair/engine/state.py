"""What a run is made of at one step: collected for a checkpoint, put back when resuming."""

import hashlib
import inspect
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eqmambair.engine import randomness
from eqmambair.engine.distributed import Ranks
from eqmambair.engine.options import dump_options
from eqmambair.engine.schedule_free import AdamWScheduleFree
from eqmambair.engine.schema import Options
from eqmambair.engine.stepping import Stepper
from eqmambair.engine.store import load_tensors, tensor_writer
from eqmambair.errors import UserError
from eqmambair.files import Content
from eqmambair.version import __version__

FORMAT = 1
WEIGHTS, STATE, OPTIONS = "net_g.pth", "state.pt", "options.yml"


@dataclass
class Progress:
    """How far a run is.

    Args:
        step: optimiser steps made.
        best: metric -> [value, step].
        nonfinite: steps left out so far because they were not finite.
        unvalidated: whether a validation is due at this step and not yet made.
    """

    step: int = 0
    best: dict[str, list[float]] = field(default_factory=dict)
    nonfinite: int = 0
    unvalidated: bool = False


def weights(stepper: Stepper, options: Options) -> dict[str, Any]:
    """What ``net_g_*.pth`` holds: the weights to use, their average if there is one, and how to build the network."""
    content: dict[str, Any] = {"params": _published(stepper)}
    if stepper.average is not None:
        content["params_ema"] = _copy(stepper.average.network)
    content["network_g"] = dict(options.network_g)
    content["scale"] = options.scale
    card = stepper.model.card()
    return content | ({"card": card} if card else {})


def _published(stepper: Stepper) -> dict[str, torch.Tensor]:
    if isinstance(stepper.optimizer, AdamWScheduleFree):
        with stepper.optimizer.averaged():
            return _copy(stepper.model.network)
    return _copy(stepper.model.network)


def _copy(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}


def fingerprint(names: list[str]) -> str:
    """A short text that tells one list of samples from another."""
    return hashlib.sha256("\n".join(names).encode("utf-8")).hexdigest()[:16]


def collect(stepper: Stepper, options: Options, progress: Progress, ranks: Ranks, samples: str) -> tuple[dict[str, Content], int] | None:
    """Files of a checkpoint and the bytes they need; None on all ranks but the first. Every rank must call it."""
    generators = ranks.gather(randomness.capture())
    if not ranks.is_main:
        return None
    published = weights(stepper, options)
    for key, group in (("params", published["params"]), ("params_ema", published.get("params_ema", {}))):
        for name, value in group.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise UserError(f"step {progress.step}: {key} {name} is not finite; nothing is saved, the last complete checkpoint is kept")
    state = {
        "format": FORMAT,
        "progress": asdict(progress),
        "optimizer": stepper.optimizer.state_dict(),
        "scaler": stepper.scaler.state_dict(),
        "training_params": _copy(stepper.model.network) if isinstance(stepper.optimizer, AdamWScheduleFree) else None,
        "generators": generators,
        "samples": samples,
        "options": options.model_dump(mode="json"),
        "versions": {"eqmambair": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
    }
    files: dict[str, Content] = {WEIGHTS: tensor_writer(published), STATE: tensor_writer(state), OPTIONS: dump_options(options)}
    return files, 2 * _bytes(published) + _bytes(state)  # weights twice: in the state, and as the latest


def read_state(place: Path) -> dict[str, Any]:
    """The state in a folder; raises ``UserError`` where it cannot be read or is of another format."""
    state = load_tensors(place / STATE)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{place / STATE}: is not a training state of this version")
    return state


def apply(place: Path, state: dict[str, Any], stepper: Stepper, ranks: Ranks) -> Progress:
    """Put a state back into a freshly built run. Generators are put back last, by ``restore_generators``."""
    published = load_tensors(place / WEIGHTS)
    rates = [group["base_lr"] for group in stepper.optimizer.param_groups]
    arguments = inspect.signature(type(stepper.optimizer)).parameters.keys() - {"lr", "params"}  # the option file's, not the state's
    given = [{key: group[key] for key in arguments if key in group} for group in stepper.optimizer.param_groups]
    try:
        stepper.model.network.load_state_dict(state["training_params"] or published["params"])
        if stepper.average is not None:
            stepper.average.network.load_state_dict(published.get("params_ema", published["params"]))
        stepper.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # the run may have been one without
            stepper.scaler.load_state_dict(state["scaler"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{place}: does not fit the network or optimizer of the options: {' '.join(str(error).split())[:300]}") from error
    for group, rate, values in zip(stepper.optimizer.param_groups, rates, given, strict=True):
        group["base_lr"] = rate
        group.update(values)
        for parameter in group["params"] if group.get("momentum") else ():  # new with these options: begins at zero
            stepper.optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
    return Progress(**state["progress"])


def restore_generators(state: dict[str, Any], ranks: Ranks) -> None:
    """Put back this rank's random generators, if the run had this rank."""
    if ranks.rank < len(state["generators"]):
        randomness.restore(state["generators"][ranks.rank])


def _bytes(content: Any) -> int:
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, dict):
        return sum(_bytes(value) for value in content.values())
    if isinstance(content, (list, tuple)):
        return sum(_bytes(value) for value in content)
    return 64

"""State dicts on disk: .pth, .pt and .safetensors, read without running code."""

import json
import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eqmambair.checkpoints.pickles import ForbiddenName, load_beside_frameworks
from eqmambair.errors import UserError
from eqmambair.files import replace_file

_log = logging.getLogger("eqmambair")

#: Where published files keep the state dict, best first.
PARAM_KEYS = ("params_ema", "params", "model_ema", "model", "state_dict")

#: What wrappers put in front of every key.
_WRAPPERS = ("module.", "_orig_mod.")


def read_state(path: str | Path, param_key: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Read a state dict, and the options of its network where the file holds them.

    Args:
        path: a .safetensors, .pth or .pt file.
        param_key: the entry to take from a nested file; None takes the first of `PARAM_KEYS`, or the file itself. Where a file without
            ``params_ema`` is asked for it, ``params`` is taken, with a warning: published files may hold no averages.

    Returns:
        The state dict, and the ``network_g`` options or None.

    Raises:
        UserError: if the file is missing, broken, holds anything but tensors, or lacks `param_key`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weight file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path, param_key)
    try:
        content = _read_pickled(path)
    except ForbiddenName as error:
        raise UserError(f"{path}: refused, it holds more than tensors and plain values ({error}); save the state dict alone") from error
    except Exception as error:  # whatever the damage makes of it: torch promises no particular error
        raise UserError(f"{path}: cannot be read as a weight file: {_damage(path, error)}; fetch or save it again") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a state dict")
    network = content.get("network_g")
    return unwrap(content, str(path), param_key), dict(network) if isinstance(network, Mapping) else None


def read_card(path: str | Path) -> dict[str, Any]:
    """What a weight file of ours says beside its tensors and network options, such as names of classes; empty where it says nothing.

    Raises:
        UserError: if the file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weight file")
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                card = json.loads((file.metadata() or {}).get("card", "{}"))
        else:
            content = _read_pickled(path)
            card = content.get("card", {}) if isinstance(content, Mapping) else {}
    except Exception as error:  # as in read_state
        raise UserError(f"{path}: cannot be read as a weight file: {_damage(path, error)}") from error
    return dict(card) if isinstance(card, Mapping) else {}


def _damage(path: Path, error: Exception) -> str:
    """What is wrong with a file that no reader takes, in a few words."""
    with path.open("rb") as file:
        begins = file.read(4)
    if not begins:
        return "it is empty"
    if begins == b"PK\x03\x04" and not zipfile.is_zipfile(path):
        return "its end is missing, it was cut off"
    reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
    return f"it is damaged, or of another kind ({reason})"


def _read_pickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return load_beside_frameworks(path)


def _read_safetensors(path: Path, param_key: str | None) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    if param_key is not None:
        raise UserError(f"{path}: a safetensors file has no entry {param_key!r}, it is one state dict; leave the parameter key out")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error})") from error
    try:
        network = json.loads(metadata["network_g"]) if "network_g" in metadata else None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: its network_g metadata is no JSON ({error})") from error
    if not isinstance(network, dict | None):
        raise UserError(f"{path}: its network_g metadata is a {type(network).__name__}, not a mapping")
    return unwrap(state, str(path)), network


def unwrap(content: Mapping[str, Any], source: str, param_key: str | None = None) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, without the prefixes of DataParallel and torch.compile.

    Args:
        content: a state dict, or a dictionary that holds one.
        source: where it came from, for messages.
        param_key: see `read_state`.

    Raises:
        UserError: if `param_key` is missing, or something in the state dict is no tensor.
    """
    if param_key == "params_ema" and param_key not in content and isinstance(content.get("params"), Mapping):
        _log.warning("%s: has no averaged weights (params_ema); its params are taken", source)
        param_key = "params"
    if param_key is not None:
        if not isinstance(content.get(param_key), Mapping):
            raise UserError(f"{source}: has no entry {param_key!r}; it holds {', '.join(map(str, list(content)[:6]))}")
        content = content[param_key]
    else:
        content = next((content[key] for key in PARAM_KEYS if isinstance(content.get(key), Mapping)), content)
    state = {}
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{source}: entry {key!r} is a {type(value).__name__}, not a tensor")
        stripped = str(key)
        while stripped.startswith(_WRAPPERS):
            stripped = stripped.split(".", 1)[1]
        state[stripped] = value
    return state


def save_weights(
    path: str | Path, state: Mapping[str, Tensor], network: Mapping[str, Any] | None = None, param_key: str = "params"
) -> None:
    """Write a state dict, and the options of its network, so that either the whole file is there or the old one.

    Args:
        path: ends in .safetensors, .pth or .pt.
        state: what to write.
        network: the ``network_g`` options; stored beside the tensors, so that the file can be used alone.
        param_key: entry of a .pth file that holds the state dict.

    Raises:
        UserError: if the file cannot be written, the folder is missing or the ending unknown.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise UserError(f"{path}: weights are written as .safetensors, .pth or .pt")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder for {path.name}")
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    if path.suffix == ".safetensors":
        from safetensors.torch import save

        replace_file(path, save(tensors, metadata={"format": "pt"} | ({"network_g": json.dumps(network)} if network else {})))
    else:
        content = {param_key: tensors} | ({"network_g": dict(network)} if network else {})
        replace_file(path, lambda file: torch.save(content, file))

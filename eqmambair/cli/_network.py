"""Which network a command works on: the arguments that name it, and what stands behind them. Every command that takes one uses this."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from eqmambair.archs import build_network
from eqmambair.checkpoints import load_network
from eqmambair.cli._fetching import model_file
from eqmambair.engine.options import project_root
from eqmambair.engine.yaml_source import Source, read_yaml
from eqmambair.errors import UserError
from eqmambair.inference.networks import Trained, is_exported, load_trained


@dataclass(frozen=True)
class Choice:
    """What the arguments name, before anything is loaded.

    Attributes:
        weights: the file; None where none is named.
        network: ``network_g`` of the option file; None where the weights are to tell.
        scale: of the option file.
        param_key: entry of a .pth file.
        strict: whether every key must find its partner of the same shape.
    """

    weights: Path | None
    network: dict[str, Any] | None
    scale: int | None = None
    param_key: str | None = None
    strict: bool = True


def add_network_arguments(
    parser: argparse.ArgumentParser, *, required: bool = True, untrained: bool = False, exported: bool = False
) -> None:
    """Add --weights, --model, --opt and --param_key.

    Args:
        required: whether the command needs a network.
        untrained: whether first weights will do; adds --untrained.
        exported: whether the command runs .onnx files as well.
    """
    source = parser.add_mutually_exclusive_group()
    endings = ".safetensors, .pth, .pt; or .onnx, as export_onnx.py writes it" if exported else ".safetensors, .pth, .pt"
    source.add_argument("--weights", "-w", type=Path, metavar="FILE", help=f"weights, ours or published: {endings}")
    source.add_argument(
        "--model", metavar="NAME", help="weights of the zoo by name, fetched at first use; `python -m eqmambair.zoo list` names them"
    )
    if untrained:
        source.add_argument("--untrained", action="store_true", help="first weights, whatever the option file names")
    needed = "one of --weights, --model and --opt is needed" if required else "instead of --weights"
    parser.add_argument(
        "--opt",
        type=Path,
        metavar="FILE",
        help=f"option file whose network_g is built (default: what the weights say); {needed} (path: pretrain_network_g)",
    )
    parser.add_argument("--param_key", metavar="KEY", help="entry of a .pth file, such as params_ema (default: the first known one)")


def chosen(arguments: argparse.Namespace) -> Choice:
    """What --weights, --model and --opt name; the weights named on the command line win over those in the file.

    The file's weights are found and loaded as basicsr/test.py does it: relative to the project, the entry that param_key_g names, and only
    what fits where strict_load_g is false.

    Raises:
        UserError: nothing is named, or a file cannot be read or does not say what it should.
    """
    weights = model_file(arguments.model) if arguments.model is not None else arguments.weights
    if arguments.opt is None:
        if weights is None:
            raise UserError("no network; give --weights FILE, --model NAME or --opt FILE")
        return Choice(weights, None, param_key=arguments.param_key)
    source = read_yaml(arguments.opt)
    network = _network_options(source, arguments.opt)
    scale = _entry(source, ("scale",), int, "a whole number of at least 1")
    if weights is not None or getattr(arguments, "untrained", False):
        return Choice(weights, network, scale, arguments.param_key)
    _entry(source, ("path",), dict, "a mapping")
    named = _entry(source, ("path", "pretrain_network_g"), str, "the name of a file")
    if named is None:
        return Choice(None, network, scale)
    param_key = arguments.param_key or _entry(source, ("path", "param_key_g"), str, "a word")
    strict = _entry(source, ("path", "strict_load_g"), bool, "true or false")
    # an absolute path stays itself
    return Choice(project_root() / Path(named).expanduser(), network, scale, param_key, strict is not False)


def network_options(path: str | Path) -> dict[str, Any]:
    """The ``network_g`` part of an option file.

    Raises:
        UserError: if the file cannot be read or has no ``network_g``.
    """
    return _network_options(read_yaml(path), path)


def network_from_arguments(arguments: argparse.Namespace) -> tuple[nn.Module, dict[str, Any], Path | None]:
    """The network that the arguments name, in evaluation mode, its options, and the file of its weights.

    Without weights it has first ones, if the command takes such networks (``add_network_arguments(untrained=True)``).

    Raises:
        UserError: as `chosen`; or the network cannot be loaded.
    """
    choice = chosen(arguments)
    if choice.weights is not None:
        if is_exported(choice.weights):
            runs = "inference.py, evaluate.py and classify.py run it"
            raise UserError(f"{choice.weights}: is an exported network; {runs}, here the weights are needed that it was made from")
        network, options = load_network(choice.weights, choice.network, choice.param_key, choice.strict)
        return network, options, choice.weights
    if not hasattr(arguments, "untrained"):
        raise _no_weights(arguments)
    assert choice.network is not None
    return built(choice.network, arguments.opt).eval(), choice.network, None


def built(network: dict[str, Any], file: str | Path) -> nn.Module:
    """The network of an option file, with first weights.

    Raises:
        UserError: it cannot be built; the message names the file.
    """
    try:
        return build_network(network)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def trained_from_arguments(arguments: argparse.Namespace) -> Trained:
    """The restoration network that the arguments name, with its weights.

    Raises:
        UserError: as `chosen`; or there are no weights, or the network cannot be loaded.
    """
    choice = chosen(arguments)
    if choice.weights is None:
        raise _no_weights(arguments)
    return load_trained(choice.weights, choice.network, choice.scale, choice.param_key, choice.strict)


def run_name(file: Path) -> str:
    """What tables call a file: the run that it belongs to (``RUN/models/net_g.pth``), else its own name without ending."""
    return file.parent.parent.name if file.parent.name == "models" else file.stem


def _no_weights(arguments: argparse.Namespace) -> UserError:
    return UserError(f"{arguments.opt}: names no weights (path: pretrain_network_g); give --weights FILE")


def _network_options(source: Source, path: str | Path) -> dict[str, Any]:
    network = _entry(source, ("network_g",), dict, "a mapping")
    if network is None:
        raise UserError(f"{path}: has no network_g")
    return dict(network)


def _entry(source: Source, path: tuple[str, ...], kind: type, expected: str) -> Any:
    """Return what an option file holds under these keys, None where it holds nothing; raise `UserError` unless it is of this kind."""
    value: Any = source.data
    for key in path:
        value = (value or {}).get(key)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    right = (
        isinstance(value, kind)
        and (kind is bool or not isinstance(value, bool))
        and not (kind is int and isinstance(value, int) and value < 1)
    )
    if value is not None and not right:
        raise UserError(f"{source.place(path)}: {'.'.join(path)}: expected {expected}, found {value!r}")
    return value

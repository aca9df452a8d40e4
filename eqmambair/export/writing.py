"""Write a network as an ONNX file that has been compared with torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eqmambair.archs.classifier import Classifier
from eqmambair.errors import UserError
from eqmambair.export.facts import Facts, Precision
from eqmambair.export.session import OnnxNetwork, missing_packages
from eqmambair.files import replace_file
from eqmambair.version import __version__

#: Networks that restore pictures, and networks that classify them, by the names of their classes.
RESTORERS = ("EQMambaIR", "MambaIR", "MambaIRUNet", "MambaIRv2", "MambaIRv2Light")
CLASSIFIERS = ("VMamba", "EQVMamba", "GroupMamba", "V2M", "V2MPyramid", "SpectralVMamba")

#: The largest difference from torch with which a file is written; that of float16 is multiplied by the largest output, at least 1.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        bytes: its size.
        differences: the largest difference from torch at each (height, width) that was compared.
    """

    path: Path
    bytes: int
    differences: dict[tuple[int, int], float]


def export_network(
    network: nn.Module, options: Mapping[str, Any], path: str | Path, *, half: bool = False, card: Mapping[str, Any] | None = None
) -> Exported:
    """Export a network, compare it with torch at a square, an oblong and an odd size, and write it if they agree.

    The file has one input, ``image`` (batch, channels, height, width), with batch, height and width free, and one output, ``restored`` or
    ``logits``; float32, or float16 with `half`, where the scans' state and parameters stay float32. It holds standard operators of opset
    18 alone. What it is stands in its metadata under keys that begin with ``eqmambair.``.

    Args:
        network: one of `RESTORERS` or `CLASSIFIERS`; left as it is.
        options: the ``network_g`` options that it was built from.
        path: ends in .onnx; an older file is replaced.
        half: whether to write float16.
        card: what the weights say of themselves (names of classes, preprocessing); goes into the metadata.

    Returns:
        What was written and how far it is from torch.

    Raises:
        UserError: the network is of a kind that is not exported, the packages are missing, the file cannot be written, or the exported
            network differs from torch by more than `TOLERANCE`. Nothing is written then.
    """
    path = Path(path)
    arch = str(options["type"])
    _check_path(path)
    _check_network(network, options, half)
    try:
        from eqmambair.export.graph import folded_copy, onnx_graph
    except ImportError as error:
        raise missing_packages("exporting", error) from error
    restores = arch in RESTORERS
    precision: Precision = "float16" if half else "float32"
    channels = int(network.in_chans)  # type: ignore[arg-type]
    unit = _unit(network)
    plain = folded_copy(network, half)
    example = torch.rand(2, channels, 5 * unit, 3 * unit).to(torch.float16 if half else torch.float32)
    try:
        # the exporter's optimiser needs many minutes for the nodes of MambaIRv2; without it names clash in other networks
        model = onnx_graph(plain, example, ("image", "restored" if restores else "logits"), optimize=not arch.startswith("MambaIRv2"))
    except Exception as error:  # torch's exporter promises no particular error
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        raise UserError(f"{arch}: torch's exporter cannot trace it ({type(root).__name__}: {' '.join(str(root).split())[:200]})") from error
    facts = Facts(
        arch=arch,
        task="restoration" if restores else "classification",
        channels=channels,
        precision=precision,
        options=dict(options),
        scale=int(network.upscale) if restores else 1,  # type: ignore[arg-type]
        card=dict(card or {}),
    )
    for key, value in facts.as_metadata().items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name, model.producer_version = "eqmambair", __version__
    content = model.SerializeToString()
    differences = _compare(OnnxNetwork(content, str(path)), network, channels, unit, precision)
    replace_file(path, content)
    return Exported(path, len(content), differences)


def _compare(exported: OnnxNetwork, network: nn.Module, channels: int, unit: int, precision: str) -> dict[tuple[int, int], float]:
    """The largest difference at each size; raises `UserError` if one is above the tolerance."""
    differences = {}
    draw = torch.Generator().manual_seed(0)
    training = network.training
    for height, width in ((3 * unit, 3 * unit), (2 * unit, 5 * unit), (3 * unit + 5, 4 * unit - 1)):
        images = torch.rand(1, channels, height, width, generator=draw)
        network.eval()
        try:
            with torch.inference_mode():
                expected: Tensor = network(images)
        finally:
            network.train(training)
        result = exported(images)
        if result.shape != expected.shape:
            raise UserError(f"{exported.name}: not written; {height}x{width} gives {tuple(result.shape)}, in torch {tuple(expected.shape)}")
        difference = float((result - expected).abs().max())
        allowed = TOLERANCE[precision] * (max(1.0, float(expected.abs().max())) if precision == "float16" else 1.0)
        if not difference <= allowed:
            raise UserError(
                f"{exported.name}: not written; at {height}x{width} it differs from torch by {difference:.1e}, {allowed:.0e} is allowed"
            )
        differences[height, width] = difference
    return differences


def _check_path(path: Path) -> None:
    if path.suffix != ".onnx":
        raise UserError(f"{path}: networks are written as .onnx")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder for {path.name}")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")


def _check_network(network: nn.Module, options: Mapping[str, Any], half: bool) -> None:
    arch = options["type"]
    if arch not in (*RESTORERS, *CLASSIFIERS):
        raise UserError(f"{arch}: is not exported; these are: {', '.join((*RESTORERS, *CLASSIFIERS))}")
    if isinstance(network, Classifier) and (not network.num_classes or options.get("out_indices")):
        raise UserError(f"{arch}: this one has no head (num_classes, out_indices); whole classifiers are exported")
    if options.get("eval_routing") == "gumbel":
        raise UserError(f"{arch}: eval_routing is gumbel, which draws noise at every run; export with eval_routing: argmax")
    if options.get("shift_single_window") is False:
        raise UserError(f"{arch}: shift_single_window: false treats maps of one window apart; a file has one graph for all sizes")
    if arch == "SpectralVMamba" and options.get("mode", "invariant") != "invariant":
        raise UserError(f"{arch}: mode: {options['mode']} takes its order from the signs of torch's eigen-solver; export mode: invariant")
    if arch == "SpectralVMamba" and half:
        raise UserError(f"{arch}: its order follows from differences that float16 does not hold; export it in float32")
    if options.get("layout") == "released":
        raise UserError(f"{arch}: the layout 'released' exists on square maps only; a file has its height and width free")


def _unit(network: nn.Module) -> int:
    """Pixels by which the sizes are chosen that a network is traced and compared at: more than a window, several patches."""
    if isinstance(network, Classifier):
        return max(32, int(getattr(network, "patch_size", 1)))
    return max(16, int(getattr(network, "window_size", 1)))

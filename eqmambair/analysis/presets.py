"""The table of every network that has an option file: sizes, what the papers print, names of weights."""

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eqmambair.analysis.complexity import Complexity, complexity_of_sizes
from eqmambair.archs import build_network, input_channels
from eqmambair.engine.yaml_source import read_yaml
from eqmambair.errors import UserError
from eqmambair.zoo import entries

#: Option file without ending -> (parameters, multiply-accumulates) as the paper or its code's page prints them.
PRINTED: dict[str, tuple[str, str]] = {
    "eq_mambair_light_x2": ("519K", ""),
    "eq_mambair_light_x3": ("527K", ""),
    "eq_mambair_light_x4": ("538K", ""),
    "eq_mambair_x2": ("12.1M", ""),
    "eq_mambair_x3": ("12.2M", ""),
    "eq_mambair_x4": ("12.2M", ""),
    "mambair_light_x2": ("859K", ""),
    "mambair_light_x3": ("867K", ""),
    "mambair_light_x4": ("879K", ""),
    "mambair_x2": ("20.4M", ""),
    "mambair_x3": ("20.4M", ""),
    "mambair_x4": ("20.4M", ""),
    "mambairv2_light_x2": ("774K", "286.3G"),
    "mambairv2_light_x3": ("781K", "126.7G"),
    "mambairv2_light_x4": ("790K", "75.6G"),
    "mambairv2_small_x2": ("9.6M", "192.9G at 128x128"),
    "mambairv2_small_x3": ("9.8M", ""),
    "mambairv2_small_x4": ("9.8M", ""),
    "mambairv2_x2": ("22.9M", "445.8G at 128x128"),
    "mambairv2_x3": ("23.1M", ""),
    "mambairv2_x4": ("23.1M", "113.97G at 64x64"),
    "mambairv2_large_x2": ("34.2M", "664.5G at 128x128"),
    "mambairv2_large_x3": ("34.2M", ""),
    "mambairv2_large_x4": ("34.2M", ""),
    "vmamba_tiny_imagenet1k": ("30M", "4.9G"),
    "vmamba_small_imagenet1k": ("50M", "8.7G"),
    "vmamba_base_imagenet1k": ("89M", "15.4G"),
    "vmamba_tiny_imagenet100": ("30M", ""),
    "vmamba_small_imagenet100": ("50M", ""),
    "eq_vmamba_tiny_imagenet100": ("10M", ""),
    "eq_vmamba_small_imagenet100": ("17M", ""),
    "groupmamba_tiny_imagenet1k": ("23M", "4.5G"),
    "groupmamba_small_imagenet1k": ("34M", "7.0G"),
    "groupmamba_base_imagenet1k": ("57M", "14G"),
    "v2m_tiny_imagenet1k": ("7M", "1.9G"),
    "v2m_small_imagenet1k": ("26M", "5.9G"),
    "v2m_tiny_local_imagenet1k": ("8M", "1.8G"),
    "v2m_small_local_imagenet1k": ("28M", "5.4G"),
    "v2m_pyramid_small_imagenet1k": ("30M", "5.4G"),
    "v2m_pyramid_base_imagenet1k": ("50M", "9.6G"),
    "spectral_vmamba_tiny_mini_imagenet": ("21M", "3.9G"),
    "spectral_vmamba_small_mini_imagenet": ("35M", "6.3G"),
    "spectral_vmamba_base_mini_imagenet": ("", "6.3G"),
    "mask_rcnn_groupmamba_tiny_coco_1x": ("40M", ""),
    "upernet_vmamba_tiny_ade20k": ("62M", ""),
    "eq_upernet_eq_vmamba_tiny_ade20k": ("18M", ""),
}

#: model_type -> size (height, width) at which a network of the task is counted; restoration is counted at this output.
SIZES = {"RestorationModel": (720, 1280), "ClassificationModel": (224, 224), "SegmentationModel": (512, 512)}


@dataclass(frozen=True)
class Row:
    """One network of the table.

    Attributes:
        name: of its option file, without ending.
        network: ``network_g``.
        option_file: relative to the folder of the project.
        size: height and width of the input that it was counted at.
        parameters: trainable numbers.
        cost: what was counted; None where it depends on what is in a picture (detection).
    """

    name: str
    network: dict[str, Any]
    option_file: str
    size: tuple[int, int]
    parameters: int
    cost: Complexity | None

    @property
    def weights(self) -> str:
        """Names of the zoo's weights for this network, as Markdown; empty where there are none."""
        return ", ".join(f"`{each.name}`" for each in entries().values() if each.option_file == self.option_file)


def rows(root: Path) -> Iterator[Row]:
    """Count every network of ``root/options/*.yml`` and ``root/options/trained/*.yml``, by sizes alone: nothing is computed.

    Raises:
        UserError: an option file cannot be read, or its network not be built.
    """
    files = {path.stem: path for path in [*sorted((root / "options").glob("*.yml")), *sorted((root / "options" / "trained").glob("*.yml"))]}
    for name, path in files.items():
        content = read_yaml(path).data
        network, task = content.get("network_g"), content.get("model_type", "RestorationModel")
        if not isinstance(network, dict):
            raise UserError(f"{path}: has no network_g")
        yield _row(name, network, str(path.relative_to(root)), _input_size(content, str(task)))


def _input_size(content: dict[str, Any], task: str) -> tuple[int, int]:
    scale = int(content.get("scale", 1))
    sections = content.get("datasets", {}).values()
    sides = [section["size"] for section in sections if isinstance(section, dict) and isinstance(section.get("size"), int)]
    if task == "ClassificationModel" and sides:
        return sides[-1], sides[-1]
    height, width = SIZES.get(task, SIZES["RestorationModel"])
    return height // scale, width // scale


def _row(name: str, network: dict[str, Any], option_file: str, size: tuple[int, int]) -> Row:
    return Row(name, network, option_file, size, *_counted(json.dumps(network), *size))


@functools.cache
def _counted(network: str, height: int, width: int) -> tuple[int, Complexity | None]:
    """Networks of several option files are often the same."""
    options = json.loads(network)
    with torch.device("meta"):
        built = build_network(options)
    parameters = sum(each.numel() for each in built.parameters() if each.requires_grad)
    return parameters, complexity_of_sizes(built, (1, input_channels(built, options), height, width))


def replace_table(page: str, table: str) -> str:
    """A page of Markdown with its first table that begins like this one put in its place.

    Raises:
        UserError: the page has no such table.
    """
    lines, head = page.splitlines(), table.splitlines()[0]
    if head not in lines:
        raise UserError(f"the page has no table that begins with {head}")
    first = last = lines.index(head)
    while last < len(lines) and lines[last].startswith("|"):
        last += 1
    return "\n".join([*lines[:first], *table.splitlines(), *lines[last:]]) + "\n"


def markdown(found: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| network | type | parameters | in print | input | GMACs | with scans | in print | peak memory | option file | `--model` |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found:
        parameters, macs = PRINTED.get(row.name, ("", ""))
        cost, group = row.cost, row.network.get("group")
        counted = ("", "", "")
        if cost is not None:
            with_scans = cost.dense_macs + cost.published_scan_macs
            counted = (f"{cost.dense_macs / 1e9:,.2f}", f"{with_scans / 1e9:,.2f}", f"{cost.peak_bytes / 2**20:,.0f} MiB")
        cells = (
            row.name,
            f"{row.network['type']}{f' ({group})' if group else ''}",
            f"{row.parameters:,}",
            parameters,
            f"{row.size[0]}x{row.size[1]}" if cost else "",
            *counted[:2],
            macs,
            counted[2],
            f"`{row.option_file}`",
            row.weights,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"

"""Option files of recognition: they pass the check, their networks have the published sizes and run on a tiny picture."""

from pathlib import Path

import pytest
import torch

from eqmambair.data.label_sets import label_set
from eqmambair.engine.options import load_options
from eqmambair.engine.schema import Options
from eqmambair.models.specs import build
from tests.conftest import ROOT


def _files(model_type: str) -> list[Path]:
    return [file for file in sorted((ROOT / "options").glob("*.yml")) if f"model_type: {model_type}\n" in file.read_text()]


OTHERS = ("groupmamba_", "v2m_", "spectral_vmamba_")  # test_other_option_files.py
CLASSIFICATION = [file for file in _files("ClassificationModel") if not file.stem.startswith(OTHERS)]
SEGMENTATION = _files("SegmentationModel")
PARAMETERS = {
    "vmamba_tiny_imagenet100": 29_556_964,
    "vmamba_small_imagenet100": 49_455_652,
    "eq_vmamba_tiny_imagenet100": 10_221_076,
    "eq_vmamba_small_imagenet100": 16_968_340,
    "vmamba_tiny_imagenet1k": 30_249_064,
    "vmamba_small_imagenet1k": 50_147_752,
    "vmamba_base_imagenet1k": 88_557_800,
}
CLASSES = {"ade20k": 150, "voc2012": 21, "cityscapes": 19, "cocostuff164k": 171, "loveda": 7, "potsdam": 6}


def read(file: Path) -> Options:
    options, warnings = load_options(file)
    assert warnings == []
    assert options.name == file.stem
    return options


def test_all_published_recipes_are_there() -> None:
    assert set(PARAMETERS) <= {file.stem for file in CLASSIFICATION}
    wanted = {f"{network}_{name}" for name in CLASSES for network in ("upernet_vmamba_tiny", "eq_upernet_eq_vmamba_tiny")}
    assert wanted <= {file.stem for file in SEGMENTATION}


@pytest.mark.parametrize("file", CLASSIFICATION, ids=lambda file: file.stem)
def test_classification_file_builds_a_network_that_classifies(file: Path) -> None:
    options = read(file)
    network = build("network", options.network_g)
    if file.stem in PARAMETERS:
        assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[file.stem]
    with torch.no_grad():
        assert network.eval()(torch.rand(1, 3, 32, 32)).shape == (1, options.network_g["num_classes"])


@pytest.mark.parametrize("file", [file for file in CLASSIFICATION if "imagenet" in file.stem], ids=lambda file: file.stem)
def test_recipe_is_300_epochs_of_1024_pictures_with_20_of_warm_up(file: Path) -> None:
    train = read(file).train
    assert train is not None
    pictures = {"imagenet100": 126_689, "imagenet1k": 1_281_167}[file.stem.rsplit("_", 1)[1]]
    assert train.total_iter * 1024 == pytest.approx(300 * pictures, rel=1e-4)
    assert train.scheduler["total_iter"] == train.total_iter
    assert train.scheduler["warmup_iter"] * 15 == pytest.approx(train.total_iter, rel=1e-3)


@pytest.mark.parametrize("file", SEGMENTATION, ids=lambda file: file.stem)
def test_segmentation_file_builds_a_network_that_segments(file: Path) -> None:
    options = read(file)
    network, classes = build("network", options.network_g), options.network_g["num_classes"]
    if "tiny" in file.stem:
        name = file.stem.rsplit("_", 1)[1]
        assert classes == CLASSES[name] == len(label_set(name).classes)
        assert options.datasets["train"].arguments["layout"] == name
        per_class = 513 + 257  # both classifiers; the rest as the table of the specification has it for 150 classes
        whole = {"eq_": 18_395_180, "upe": 61_902_572}[file.stem[:3]]
        assert sum(parameter.numel() for parameter in network.parameters()) == whole - per_class * (150 - classes)
    with torch.no_grad():
        assert network.eval()(torch.rand(1, 3, 32, 64)).shape == (1, classes, 32, 64)

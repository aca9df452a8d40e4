"""Option files of GroupMamba, V2M, Spectral VMamba and Mask R-CNN: they pass the check, and their networks have the published sizes."""

from pathlib import Path

import pytest
import torch

from eqmambair.archs import build_network
from eqmambair.engine.options import load_options
from tests.conftest import ROOT

PARAMETERS = {  # trainable; V2M with the cross of class tokens but for local windows
    "groupmamba_tiny_imagenet1k": 23_361_917,
    "groupmamba_small_imagenet1k": 34_781_555,
    "groupmamba_base_imagenet1k": 57_150_838,
    "v2m_tiny_imagenet1k": 6_863_848,
    "v2m_tiny_local_imagenet1k": 6_852_712,
    "v2m_small_imagenet1k": 25_228_264,
    "v2m_small_local_imagenet1k": 25_205_992,
    "v2m_pyramid_small_imagenet1k": 29_573_992,
    "v2m_pyramid_base_imagenet1k": 48_217_000,
    "spectral_vmamba_tiny_mini_imagenet": 203_988_068,
    "spectral_vmamba_small_mini_imagenet": 351_741_028,
    "spectral_vmamba_base_mini_imagenet": 351_741_028,
}
DETECTORS = sorted((ROOT / "options").glob("mask_rcnn_*.yml"))
BACKBONES = ("vmamba_tiny", "eq_vmamba_tiny", "groupmamba_tiny", "v2m_pyramid_small")
PICTURES = {"groupmamba": (1024, 20), "v2m": (512, 5), "v2m_pyramid": (1024, 20), "spectral": (256, 20)}  # of a step; epochs of warm-up


@pytest.mark.parametrize("name", PARAMETERS)
def test_classification_file_has_the_published_network_and_schedule(name: str) -> None:
    options, warnings = load_options(ROOT / "options" / f"{name}.yml")
    assert warnings == []
    assert options.name == name
    with torch.device("meta"):
        network = build_network(options.network_g)
    assert sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad) == PARAMETERS[name]
    kind = next(kind for kind in ("v2m_pyramid", "v2m", "groupmamba", "spectral") if name.startswith(kind))
    a_step, warm_up = PICTURES[kind]
    pictures = 50_000 if kind == "spectral" else 1_281_167
    assert options.train is not None
    assert options.train.total_iter * a_step == pytest.approx(300 * pictures, rel=1e-4)
    assert options.train.scheduler["warmup_iter"] * a_step == pytest.approx(warm_up * pictures, rel=1e-3)


def test_every_file_of_these_classifiers_is_here() -> None:
    files = {file.stem for kind in ("groupmamba", "v2m", "spectral") for file in (ROOT / "options").glob(f"{kind}_*.yml")}
    assert files == set(PARAMETERS)


def test_both_schedules_are_there_for_every_backbone() -> None:
    wanted = {f"mask_rcnn_{backbone}_coco_{schedule}" for backbone in BACKBONES for schedule in ("1x", "3x")}
    assert {file.stem for file in DETECTORS} == wanted | {"mask_rcnn_pasted"}


@pytest.mark.parametrize("file", DETECTORS, ids=lambda file: file.stem)
def test_detection_file_builds_a_network(file: Path) -> None:
    options, warnings = load_options(file)
    assert warnings == []
    assert options.name == file.stem
    assert options.train is not None
    with torch.device("meta"):
        network = build_network(options.network_g)
    if file.stem.endswith(("_1x", "_3x")):
        epochs, first, second = {"1x": (12, 8, 11), "3x": (36, 27, 33)}[file.stem[-2:]]
        epoch = 117_266 / 16
        steps = [options.train.total_iter, *options.train.scheduler["milestones"]]
        assert steps == [round(each * epoch) for each in (epochs, first, second)]
        assert network.num_classes == 80

"""What restoration does with a batch, by hand."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from eqmambair.data.sampler import Key
from eqmambair.data.seeded import CollateLoaded, SeededDataset
from eqmambair.engine.options import load_options
from eqmambair.errors import UserError
from eqmambair.metrics.psnr_ssim import psnr, ssim
from eqmambair.models import Record, RestorationModel, ValidationRequest, find_model
from eqmambair.models.restoration import Mixing, mix
from eqmambair.models.restoration_metrics import measure
from tests.engine.tiny import make_pictures, write_options


@pytest.fixture
def model(tmp_path: Path) -> RestorationModel:
    make_pictures(tmp_path / "gt", count=2)
    metrics = {key: {"type": f"calculate_{key}", "crop_border": 2, "test_y_channel": True} for key in ("psnr", "ssim")}
    options, _ = load_options(write_options(tmp_path, network_g__dropout=0.0, network_g__batch_norm=False, val__metrics=metrics))
    return RestorationModel(options, torch.device("cpu"))


def test_official_names_mean_the_restoration_model() -> None:
    for name in ("SRModel", "MambaIRModel", "EQMambaIRModel", "MambaIRv2Model", "RestorationModel", "ImageRestorationModel"):
        assert find_model(name) is RestorationModel


def test_loss_is_the_weighted_mean_difference(model: RestorationModel) -> None:
    batch = {"lq": torch.rand(2, 3, 4, 4), "gt": torch.rand(2, 3, 8, 8), "lq_path": ["a", "b"]}
    loss, parts = model.training_step(model.network.train(), batch)
    expected = (model.network(batch["lq"]) - batch["gt"]).abs().mean()
    torch.testing.assert_close(loss, expected)
    assert list(parts) == ["l_pix"]


@pytest.mark.parametrize(("taken", "color", "channels"), [(1, "rgb", 3), (3, "gray", 1), (3, "y", 1)])
def test_pictures_of_other_channels_are_refused(tmp_path: Path, taken: int, color: str, channels: int) -> None:
    make_pictures(tmp_path / "gt", count=1)
    colors = {"datasets__train__color": color, "datasets__val__color": color}
    for in_chans, fits in ((channels, True), (taken, False)):
        options, _ = load_options(write_options(tmp_path, network_g__in_chans=in_chans, **colors))
        model = RestorationModel(options, torch.device("cpu"))
        for phase in ("train", "val"):
            if fits:
                dataset = model.build_dataset(options.datasets[phase], phase)
                assert dataset[0]["lq"].shape[0] == channels
                continue
            with pytest.raises(
                UserError, match=rf"TinySR takes {taken} channels, PairedImageDataset .color: {color}. has pictures of {channels}"
            ):
                model.build_dataset(options.datasets[phase], phase)


def test_an_output_of_another_shape_than_the_truth_is_refused(model: RestorationModel) -> None:
    """One channel would be compared with each of three, by broadcasting."""
    batch = {"lq": torch.rand(2, 3, 4, 4), "gt": torch.rand(2, 3, 8, 8), "lq_path": ["a", "b"]}
    with pytest.raises(UserError, match=r"TinySR gives a tensor of shape \(2, 1, 8, 8\), the truth has \(2, 3, 8, 8\)"):
        model.training_step(torch.nn.Sequential(model.network, torch.nn.Conv2d(3, 1, 1)), batch)
    with pytest.raises(UserError, match="TinySR gives a dict, the truth has"):
        model.training_step(lambda lq: {"out": model.network(lq)}, batch)


def test_measures_are_those_of_the_benchmarks(model: RestorationModel, tmp_path: Path) -> None:
    dataset = model.build_dataset(model.options.datasets["val"], "val")
    batch = model.move(torch.utils.data.default_collate([dataset[0]]))
    record = model.validation_step(model.network.eval(), batch, ValidationRequest("mini", tmp_path / "out", "x", pictures=True))[0]
    from eqmambair.data.io import read_image

    written = read_image(tmp_path / "out" / "picture_00_x.png")
    truth = read_image(tmp_path / "gt" / "picture_00.png")
    assert record.values["psnr"] == pytest.approx(psnr(written, truth, crop_border=2))
    assert record.values["ssim"] == pytest.approx(ssim(written, truth, crop_border=2))
    assert record.pictures["lq_sr_gt_difference"].shape == (24, 4 * 24, 3)


def test_loader_processes_get_no_network(model: RestorationModel) -> None:
    dataset = model.build_dataset(model.options.datasets["val"], "val")
    parts = pickle.dumps((SeededDataset(dataset, 0), CollateLoaded(model.collate)))
    assert b"TinySR" not in parts
    seeded, collate = pickle.loads(parts)
    assert collate([seeded[Key(0, 0)]]).batch["gt"].shape == (1, 3, 24, 24)


def test_mixing_blends_pairs_alike() -> None:
    lq = torch.arange(4.0).reshape(4, 1, 1, 1)
    torch.manual_seed(0)
    mixed, same = mix(lq, lq.clone(), Mixing(mixup=True, use_identity=False))
    assert torch.equal(mixed, same)
    assert not torch.equal(mixed, lq)
    assert 0 <= float(mixed.min()) <= float(mixed.max()) <= 3
    assert mix(lq, lq, None)[0] is lq


def test_infinities_are_reported_and_not_averaged(model: RestorationModel) -> None:
    records = [Record("a", {"psnr": 30.0}), Record("b", {"psnr": math.inf}), Record("c", {"psnr": 32.0})]
    assert model.summarise(records) == {"psnr": 31.0, "psnr_not_finite": 1}


def test_pictures_too_small_for_a_metric_are_named() -> None:
    small = np.zeros((12, 12, 3), np.uint8)
    with pytest.raises(UserError, match=r"tiny: 12x12 is too small for the metric ssim"):
        measure({"ssim": {"type": "calculate_ssim", "crop_border": 2}}, small, small, "tiny")
    with pytest.raises(UserError, match="do scale, network and data agree"):
        measure({}, small, small[:6], "tiny")


def test_pictures_whose_names_hold_dots_are_written_apart(tmp_path: Path) -> None:
    make_pictures(tmp_path / "gt", count=3)
    for index, name in enumerate(("p.1.png", "p.2.png", "p.png")):
        (tmp_path / "gt" / f"picture_{index:02d}.png").rename(tmp_path / "gt" / name)
    options, _ = load_options(write_options(tmp_path))
    model = RestorationModel(options, torch.device("cpu"))
    dataset = model.build_dataset(options.datasets["val"], "val")
    for index in range(3):
        batch = model.move(torch.utils.data.default_collate([dataset[index]]))
        model.validation_step(model.network.eval(), batch, ValidationRequest("mini", tmp_path / "out", "x"))
        model.validation_step(model.network.eval(), batch, ValidationRequest("mini", tmp_path / "plain"))
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["p.1_x.png", "p.2_x.png", "p_x.png"]
    assert sorted(each.name for each in (tmp_path / "plain").iterdir()) == ["p.1.png", "p.2.png", "p.png"]


def test_metrics_without_reference_are_measured() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    assert math.isfinite(measure({"niqe": {"type": "calculate_niqe", "crop_border": 0}}, picture, picture, "noise")["niqe"])

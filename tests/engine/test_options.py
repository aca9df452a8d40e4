"""Option files: what is wrong is refused before anything is read or built, with file, line, key and the nearest right word."""

import json
from pathlib import Path
from typing import Any

import pytest

from eqmambair.engine.options import dump_options, joined_schema, load_options
from eqmambair.engine.schema import IGNORED
from eqmambair.errors import UserError
from eqmambair.models import RestorationModel
from tests.engine.tiny import tiny_options, write_options


def degraded(scale: int = 2, **arguments: Any) -> dict[str, Any]:
    """Changes that make the training set a degraded one."""
    section = {"type": "DegradedImageDataset", "dataroot_gt": "gt", "gt_size": 8, **arguments}
    return {"datasets__train": section, "scale": scale, "network_g__upscale": scale}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"train__ema_decya": 0.9}, "train.ema_decya: unknown key; did you mean 'ema_decay'?"),
    ({"valid": {}}, "valid: unknown key; did you mean 'val'?"),
    ({"path__some_model": "x.pth"}, "path.some_model: unknown key"),
    ({"train__use_amp": True}, "train.use_amp: unknown key; here it is precision"),
    ({"datasets__train__gt_sise": 8}, "datasets.train.gt_sise: unknown key for PairedImageDataset; did you mean 'gt_size'?"),
    ({"datasets__train__prefech_mode": "cpu"}, "did you mean 'prefetch_mode'?"),
    ({"datasets__validation": {"type": "PairedImageDataset"}}, "datasets.validation: sets are called train, val"),
    ({"network_g__widht": 4}, "network_g.widht: unknown key for TinySR; did you mean 'width'?"),
    ({"network_g__width": "4"}, "network_g.width: expected a whole number, found '4' (without quotes?)"),
    ({"network_g__type": "TinySt"}, "network_g.type: unknown network 'TinySt'; did you mean 'TinySR'?"),
    ({"network_g__upscale": 3}, "network_g.upscale: is 3, but scale is 2"),
    ({"model_type": "SRModl"}, "model_type: unknown model 'SRModl'; did you mean 'SRModel'?"),
    ({"train__optim_g__lrr": 1e-3}, "train.optim_g.lrr: unknown key for Adam; did you mean 'lr'?"),
    ({"train__optim_g__lr": "high"}, "train.optim_g.lr: expected a number, found 'high'"),
    ({"train__optim_g__lr": -1.0}, "train.optim_g.lr: must be positive"),
    ({"train__optim_g__betas": [0.9]}, "train.optim_g.betas: expected 2 numbers, found [0.9]"),
    ({"train__optim_g__betas": [0.9, 2.0]}, "train.optim_g: Invalid beta parameter"),
    ({"train__optim_g": {"type": "Adem", "lr": 1.0}}, "train.optim_g.type: unknown optimizer 'Adem'; did you mean 'Adam'?"),
    ({"train__scheduler__milestones": [8, 4]}, "train.scheduler.milestones: milestones must increase, found [8, 4]"),
    ({"train__scheduler__gamma": 5.0}, "train.scheduler.gamma: gamma must lie in (0, 1], found 5.0"),
    (
        {"train__scheduler": {"type": "CosineAnnealingRestartLR", "periods": [4]}},
        "train.scheduler.periods: add up to 4, less than total_iter (10)",
    ),
    ({"train__pixel_opt__type": "L1Los"}, "train.pixel_opt.type: unknown loss 'L1Los'; did you mean 'L1Loss'?"),
    ({"train__pixel_opt__wieght": 1.0}, "train.pixel_opt.wieght: unknown key for L1Loss"),
    ({"train__total_iter": "10"}, "train.total_iter: expected a whole number, found '10' (without quotes?)"),
    ({"train__total_iter": 0}, "train.total_iter: input should be greater than or equal to 1, found 0"),
    ({"train__warmup_iter": 99}, "train.warmup_iter: is longer than total_iter (10)"),
    ({"train__pixel_opt__reduction": "avg"}, "train.pixel_opt.reduction: expected mean or sum, found 'avg'"),
    ({"train__pixel_opt__reduction": "none"}, "train.pixel_opt.reduction: expected mean or sum, found 'none'"),
    ({"datasets__train__noise_sigma": 5}, "unknown key for PairedImageDataset; here it is a key of the data set type DegradedImageDataset"),
    (degraded(noise_sigma=-5), "datasets.train.noise_sigma: expected a finite number from 0 on or [lowest, highest], found -5"),
    (degraded(noise_sigma=[50, 5]), "datasets.train.noise_sigma: expected a finite number from 0 on or [lowest, highest], found [50, 5]"),
    (degraded(noise_sigma="strong"), "datasets.train.noise_sigma: expected a number, found 'strong'"),
    (degraded(jpeg_quality=0, scale=1), "datasets.train.jpeg_quality: expected a number from 1 to 100 or [lowest, highest], found 0"),
    (degraded(jpeg_quality=10), "datasets.train.jpeg_quality: artefacts are made at scale 1, not 2"),
    (
        degraded(jpeg_quality=10, noise_sigma=5, scale=1),
        "datasets.train: a degradation is needed: jpeg_quality or noise_sigma, one of the two",
    ),
    (degraded(scale=1), "datasets.train: a degradation is needed"),
    (degraded(noise_sigma=5, test_seed=-1), "datasets.train.test_seed: expected a whole number from 0"),
    ({"val__metrics__psnr__crop_border": "two"}, "val.metrics.psnr.crop_border: expected a whole number from 0 on, found 'two'"),
    ({"val__metrics__psnr__crop_border": -1}, "val.metrics.psnr.crop_border: expected a whole number from 0 on, found -1"),
    ({"val__metrics__psnr__better": "lowre"}, "val.metrics.psnr.better: expected higher or lower, found 'lowre'"),
    ({"train__pixel_opt": ...}, "train: no loss is given"),
    ({"train": ...}, "the section 'train' is missing"),
    ({"scale": ...}, "network_g.upscale: is 2, but scale is 1"),
    ({"name": ...}, "name: this key is missing"),
    ({"name": "../up"}, "name: files and folders get this name, so it must not be empty, '.' or '..', nor hold / or \\; found '../up'"),
    ({"name": "."}, "name: files and folders get this name"),
    ({"name": ".."}, "name: files and folders get this name"),
    ({"name": ""}, "name: files and folders get this name"),
    ({"datasets__val__name": "../../x"}, "datasets.val.name: files and folders get this name"),
    ({"datasets__val_/x": {"type": "PairedImageDataset"}}, "datasets.val_/x: files and folders get this name"),
    ({"val__suffix": "/x"}, "val.suffix: files and folders get this name"),
    ({"val__metrics__../psnr": {"type": "calculate_psnr", "crop_border": 2}}, "val.metrics.../psnr: files and folders get this name"),
    ({"num_gpu": "lots"}, "num_gpu: expected a whole number or 'auto', found 'lots'"),
    ({"datasets__train__use_hflip": "false"}, "datasets.train.use_hflip: expected true or false, found 'false' (without quotes?)"),
    ({"datasets__train__gt_size": 9}, "datasets.train.gt_size: 9 is not a multiple of the scale 2"),
    ({"datasets__train__gt_size": ...}, "datasets.train: training needs the key 'gt_size'"),
    ({"datasets__train__type": "RealESRGANDataset"}, "RealESRGANDataset cannot be checked and is not supported"),
    ({"datasets__train__batch_size_per_gpu": 0}, "batch_size_per_gpu: input should be greater than or equal to 1"),
    ({"datasets__val__io_backend": {"type": "disk", "type_too": 1}}, "datasets.val.io_backend: type_too: unknown key"),
    ({"datasets__train__io_backend": {"type": "dsk"}}, "datasets.train.io_backend: type: expected 'disk' or 'lmdb', found 'dsk'"),
    ({"val__metrics__psnr__test_y_chanel": True}, "unknown key for calculate_psnr; did you mean 'test_y_channel'?"),
    ({"val__metrics__psnr": {"type": "calculate_psnr"}}, "val.metrics.psnr: calculate_psnr needs the key 'crop_border'"),
    ({"val__metrics__ssim": {"type": "calculate_ssm", "crop_border": 2}}, "unknown metric 'calculate_ssm'; did you mean 'calculate_ssim'?"),
    (
        {"val__metrics__psnr": {"type": "calculate_psnr_pt", "crop_border": 2}},
        "val.metrics.psnr.type: calculate_psnr_pt measures tensors, not pictures; give calculate_psnr",
    ),
    ({"val__metrics__ssim": {"type": "calculate_ssim_pt", "crop_border": 2}}, "give calculate_ssim"),
    ({"datasets__train__iters": [5, 5], "datasets__train__gt_sizes": [8]}, "differ in length"),
    ({"datasets__train__gt_sizes": [8, 8]}, "datasets.train.gt_sizes: needs the key 'iters'"),
    ({"datasets__train__iters": [5], "datasets__train__gt_sizes": [7]}, "7 is not a multiple of the scale"),
    ({"datasets__train__iters": [5], "datasets__train__gt_sizes": [16]}, "16 is larger than gt_size (8)"),
    ({"datasets__train__mean": [0.5, 0.5, 0.5]}, "datasets.train.mean: unknown key for PairedImageDataset; here it is the network's"),
    ({"val": ...}, "there are validation sets, but the section 'val' is missing"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=lambda value: value if isinstance(value, str) else None)
def test_wrong_options_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = write_options(tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        load_options(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_tell_the_line(tmp_path: Path) -> None:
    file = write_options(tmp_path)
    lines = file.read_text().splitlines()
    number = next(index for index, line in enumerate(lines) if line.strip().startswith("gamma:"))
    lines[number] = lines[number].replace("gamma", "gama")
    file.write_text("\n".join(lines))
    with pytest.raises(UserError, match=rf"tiny.yml:{number + 1}: train.scheduler.gama: unknown key for MultiStep; did you mean 'gamma'"):
        load_options(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("- 1\n- 2\n", ":1: expected `key: value` lines"),
        ("name: a\nname: b\n", ":2: the key 'name' stands here a second time"),
        ("name: [a\n", "not valid YAML"),
        ("1: x\n", ":1: the key 1 must be text"),
        ("a: &a [*a]\n", "an alias that contains itself"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("name: \x01\n", "not valid YAML"),
    ],
)
def test_broken_yaml_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "x.yml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_options(file)
    assert message in str(caught.value)
    assert str(caught.value).count(str(file)) == 1


@pytest.mark.parametrize("path", ["missing.yml", "."])
def test_missing_file_is_one_line(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match=r"no such option file|is a folder"):
        load_options(tmp_path / path)


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "1.E-4", "0.0001", "+1e-4"])
def test_numbers_are_numbers(tmp_path: Path, text: str) -> None:
    file = write_options(tmp_path)
    file.write_text(file.read_text().replace("lr: 0.001", f"lr: {text}"))
    options, _ = load_options(file)
    assert options.train is not None
    assert options.train.optim_g["lr"] == 1e-4


def test_overrides_go_through_the_same_check(tmp_path: Path) -> None:
    file = write_options(tmp_path)
    options, _ = load_options(file, overrides=["train:optim_g:lr=1e-4", "train:scheduler:milestones:0=3", "datasets:val:name=other"])
    assert options.train is not None
    assert options.train.optim_g["lr"] == 1e-4
    assert options.train.scheduler["milestones"] == [3, 8]
    assert options.datasets["val"].name == "other"
    for wrong in (
        "train:optim_g:lrr=1",
        "train:total_iter=ten",
        "nothing",
        "name:x=1",
        "train:scheduler:milestones:7=1",
        "train:scheduler:milestones:²=1",
        "=1",
    ):
        with pytest.raises(UserError, match="--force_yml"):
            load_options(file, overrides=[wrong])


def test_override_runs_no_code(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(UserError):
        load_options(write_options(tmp_path), overrides=[f"train:total_iter=__import__('pathlib').Path({str(mark)!r}).touch()"])
    assert not mark.exists()


def test_keys_without_effect_give_one_warning_each(tmp_path: Path) -> None:
    changes = {
        "datasets__train__prefetch_mode": "cuda",
        "datasets__train__dataset_enlarge_ratio": 100,
        "path__ignore_resume_networks": None,
        "dist_params": {"rank": 0},
        "rank": 0,
        "print_network": False,
        "use_static_graph": True,
        "train__ema_decay": 0.0,
    }
    _, warnings = load_options(write_options(tmp_path, **changes))
    assert len(warnings) == 7
    assert any("tiny.yml:" in each and "prefetch_mode has no effect" in each for each in warnings)


def test_ignored_keys_are_no_keys_of_the_schema() -> None:
    names = set(joined_schema(RestorationModel).model_fields)
    assert not [path for path in IGNORED if len(path) == 1 and path[0] in names]


def test_resolved_options_read_back_as_the_same(tmp_path: Path) -> None:
    options, _ = load_options(write_options(tmp_path))
    again = tmp_path / "again.yml"
    again.write_text(dump_options(options))
    assert load_options(again)[0].model_dump() == options.model_dump()


def test_every_wrong_key_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_options(write_options(tmp_path, train__a=1, val__b=2, logger__c=3))
    assert all(key in str(caught.value) for key in ("train.a", "val.b", "logger.c"))


def test_schema_is_json_and_knows_the_losses() -> None:
    text = json.dumps(joined_schema(RestorationModel).model_json_schema())
    assert "pixel_opt" in text
    assert "total_iter" in text


def test_options_of_the_tiny_run_are_right(tmp_path: Path) -> None:
    assert load_options(write_options(tmp_path))[0].name == tiny_options(tmp_path)["name"]


def test_an_average_that_still_holds_the_initial_weights_is_told(tmp_path: Path) -> None:
    for steps, told in ((2500, True), (10000, False)):
        changes = {"train__ema_decay": 0.999, "train__total_iter": steps, "train__scheduler": {"type": "Constant"}}
        _, warnings = load_options(write_options(tmp_path, **changes))
        assert any("8.2% of the average" in each for each in warnings) is told


def test_an_average_that_still_holds_trained_weights_is_nothing_to_tell(tmp_path: Path) -> None:
    changes = {"train__ema_decay": 0.999, "train__total_iter": 2500, "train__scheduler": {"type": "Constant"}}
    for strict in (True, False):
        path = {"path__pretrain_network_g": "trained.safetensors", "path__strict_load_g": strict}
        _, warnings = load_options(write_options(tmp_path, **changes, **path))
        assert any("of the average" in each for each in warnings) is not strict

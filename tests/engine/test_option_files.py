"""Every file of options/: it passes the check, its network has the published size, and restores a tiny picture."""

from pathlib import Path

import pytest
import torch

from eqmambair.archs import input_channels
from eqmambair.checkpoints import load_network
from eqmambair.engine.options import load_options
from eqmambair.engine.schema import Options
from eqmambair.errors import UserError
from eqmambair.models.specs import build
from eqmambair.zoo import bundled_models, find_entry
from tests.conftest import ROOT

TRAIN = [*sorted((ROOT / "options").glob("*.yml")), *sorted((ROOT / "options" / "trained").glob("*.yml"))]
RESTORING = [file for file in TRAIN if "model_type: RestorationModel\n" in file.read_text()]  # others: test_vision_option_files.py
TEST = sorted((ROOT / "options" / "test").glob("*.yml"))
PARAMETERS = {  # the tables of the two papers' code, counted on the built networks
    "eq_mambair_x2": 12_123_470,
    "eq_mambair_x3": 12_169_630,
    "eq_mambair_x4": 12_160_398,
    "eq_mambair_light_x2": 519_027,
    "eq_mambair_light_x3": 527_142,
    "eq_mambair_light_x4": 538_503,
    "mambair_x2": 20_421_863,
    "mambair_x3": 20_606_503,
    "mambair_x4": 20_569_575,
    "mambair_light_x2": 905_016,
    "mambair_light_x3": 913_131,
    "mambair_light_x4": 924_492,
    "mambair_real_denoising": 26_779_480,
    **{f"mambair_color_denoising_{level}": 15_777_507 for level in (15, 25, 50)},
    **{f"mambair_gray_denoising_{level}": 15_771_025 for level in (15, 25, 50)},
    **{f"mambair_jpeg_{level}": 15_771_025 for level in (10, 30, 40)},
    **{f"eq_mambair_color_denoising_{level}": 7_058_829 for level in (15, 25, 50)},
    **{f"eq_mambair_gray_denoising_{level}": 7_057_207 for level in (15, 25, 50)},
    **{f"eq_mambair_jpeg_{level}": 7_057_207 for level in (10, 30, 40)},
    "mambairv2_light_x2": 774_092,
    "mambairv2_light_x3": 780_587,
    "mambairv2_light_x4": 789_680,
    "mambairv2_small_x2": 9_621_935,
    "mambairv2_small_x3": 9_806_575,
    "mambairv2_small_x4": 9_769_647,
    "mambairv2_x2": 22_903_001,
    "mambairv2_x3": 23_087_641,
    "mambairv2_x4": 23_050_713,
    "mambairv2_large_x2": 34_090_523,
    "mambairv2_large_x3": 34_275_163,
    "mambairv2_large_x4": 34_238_235,
    **{f"mambairv2_jpeg_{level}": 22_651_705 for level in (10, 30, 40)},
    **{f"mambairv2_color_denoising_{level}": 22_657_971 for level in (15, 25, 50)},
}


def read(file: Path) -> Options:
    options, warnings = load_options(file, "test" if file.parent.name == "test" else "train")
    assert warnings == []
    return options


@pytest.mark.parametrize("file", RESTORING, ids=lambda file: file.stem)
def test_option_file_builds_a_network_that_restores(file: Path) -> None:
    options = read(file)
    assert options.name == file.stem
    network = build("network", options.network_g)
    if file.stem in PARAMETERS:
        assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[file.stem]
    with torch.no_grad():
        channels = input_channels(network, options.network_g)
        output = network.eval()(torch.rand(1, channels, 8, 8))
    assert output.shape == (1, channels, 8 * options.scale, 8 * options.scale)


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_weights_are_of_the_network_of_their_recipe(name: str) -> None:
    network, options = load_network(bundled_models()[name])
    recipe = build("network", read(ROOT / str(find_entry(name).option_file)).network_g)
    assert options["type"] == type(recipe).__name__
    assert [(key, value.shape) for key, value in network.state_dict().items()] == [
        (key, value.shape) for key, value in recipe.state_dict().items()
    ]


def test_every_file_is_of_a_kind_that_is_built_here_or_beside() -> None:
    """Classification and segmentation: test_vision_option_files.py; detection and the other classifiers: test_other_option_files.py."""
    kinds = {read(file).model_type for file in TRAIN}
    assert kinds == {"RestorationModel", "ClassificationModel", "SegmentationModel", "DetectionModel"}
    assert sorted({*TRAIN, *TEST}) == sorted((ROOT / "options").rglob("*.yml"))


@pytest.mark.parametrize("file", TEST, ids=lambda file: file.stem)
def test_test_file_has_the_network_of_its_training_file(file: Path) -> None:
    options = read(file)
    trained = read(ROOT / "options" / file.name)
    assert options.network_g == trained.network_g
    assert options.path.pretrain_network_g == f"experiments/{trained.name}/models/net_g_latest.pth"
    assert options.val is not None
    assert trained.val is not None
    assert options.val.metrics == trained.val.metrics


@pytest.mark.parametrize("file", [each for each in TEST if each.stem[-3:-1] == "_x"], ids=lambda file: file.stem)
def test_test_file_names_the_five_benchmarks(file: Path) -> None:
    names = [section.name for section in read(file).sections("test").values()]
    assert names == ["Set5", "Set14", "B100", "Urban100", "Manga109"]


@pytest.mark.parametrize("file", TRAIN, ids=lambda file: file.stem)
def test_option_file_can_be_debugged(file: Path) -> None:
    options, _ = load_options(file, debug=True)
    assert options.name == f"debug_{file.stem}"
    assert options.train is not None
    assert (options.train.total_iter, options.logger.print_freq) == (16, 1)


def test_all_published_recipes_are_there() -> None:
    assert set(PARAMETERS) <= {file.stem for file in TRAIN}
    assert {name for name in PARAMETERS if name != "mambair_real_denoising"} <= {file.stem for file in TEST}


def test_missing_data_are_one_line_with_the_folder_and_the_command(tmp_path: Path) -> None:
    options = read(ROOT / "options" / "eq_mambair_light_x2.yml")
    options.set_root(tmp_path)
    from eqmambair.models import RestorationModel

    model = RestorationModel(options, torch.device("cpu"))
    with pytest.raises(UserError) as caught:
        model.build_dataset(options.datasets["train"], "train")
    assert f"{tmp_path}/datasets/DIV2K/HR_sub: no such folder" in str(caught.value)
    assert "python scripts/prepare_datasets.py subimages" in str(caught.value)

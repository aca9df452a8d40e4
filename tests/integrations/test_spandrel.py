"""spandrel's own loader recognises our networks and the published ones, and its models give the networks' numbers."""

import contextlib

import pytest
import torch

from eqmambair import UserError, build_network
from eqmambair.checkpoints import save_weights, to_official
from tests.golden import GoldenCase, relative_error

spandrel = pytest.importorskip("spandrel", reason="needs the extra [spandrel]")

from eqmambair.integrations.spandrel import NETWORKS, install  # noqa: E402 (needs spandrel)

_IR = {"embed_dim": 32, "depths": [1], "d_state": 1, "mlp_ratio": 1.0}
_V2 = {"embed_dim": 16, "depths": [1], "d_state": 1, "num_heads": [4], "window_size": 4, "inner_rank": 4, "num_tokens": 8, "mlp_ratio": 1.0}
TINY = {
    "EQMambaIR": {**_IR, "upscale": 2, "upsampler": "pixelshuffledirect"},
    "MambaIR": {**_IR, "upscale": 3, "upsampler": "pixelshuffle"},
    "MambaIRv2": {**_V2, "in_chans": 1},
    "MambaIRv2Light": {**_V2, "upscale": 2},
    "MambaIRUNet": {"dim": 30, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "d_state": 1, "mlp_ratio": 1.0},
}


@pytest.fixture
def table():
    """A copy of spandrel's registry with our networks in it, so that no other test sees them."""
    made = spandrel.MAIN_REGISTRY.copy()
    assert install(made) == list(NETWORKS)
    return made


def loaded(table, path):
    model = spandrel.ModelLoader(None, table).load_from_file(path)
    assert isinstance(model, spandrel.ImageModelDescriptor)
    return model


@pytest.mark.parametrize(
    ("case", "name", "scale", "channels"),
    [
        ("eq_mambair/light_x2", "EQMambaIR", 2, 3),
        ("mambair/light_x3", "MambaIR", 3, 3),
        ("mambair/denoise_gray", "MambaIR", 1, 1),
        ("mambairv2/light_x2", "MambaIRv2Light", 2, 3),
        ("mambairv2/car_gray", "MambaIRv2", 1, 1),
    ],
)
def test_published_weights_give_the_published_numbers(shared_dir, tmp_path, table, case, name, scale, channels):
    golden = GoldenCase(shared_dir / "golden" / f"{case}.safetensors")
    torch.save({"params": golden.state}, tmp_path / "published.pth")
    model = loaded(table, tmp_path / "published.pth")
    assert (model.architecture.id, model.scale, model.input_channels, model.output_channels) == (name, scale, channels, channels)
    assert model.purpose == ("SR" if scale > 1 else "Restoration")
    expected = golden.tensors["output/y"].clamp(0, 1)
    assert relative_error(model(golden.tensors["input/x"]), expected) < 1e-4  # as the golden cases allow


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("layout", ["ours", "published"])
def test_networks_of_ours_load_and_give_their_numbers_for_every_size(tmp_path, table, name, layout):
    network = build_network({"type": name, **TINY[name]}).eval()
    state = network.state_dict()
    path = tmp_path / ("x.safetensors" if layout == "ours" else "x.pth")
    save_weights(path, state if layout == "ours" else to_official(state), {"type": name, **TINY[name]})
    model = loaded(table, path)
    assert model.architecture.id == name
    assert model.size_requirements.none
    assert model.tiling is (spandrel.ModelTiling.DISCOURAGED if name == "EQMambaIR" else spandrel.ModelTiling.SUPPORTED)
    image = torch.rand(1, model.input_channels, 9, 7)
    with torch.inference_mode():
        expected = network(image).clamp(0, 1)
    torch.testing.assert_close(model(image), expected, rtol=0, atol=1e-5)  # the same arithmetic on the same weights
    if layout == "ours":
        for dtype in (torch.bfloat16, torch.float16):
            output = model.to(dtype)(image.to(dtype))
            assert output.dtype == dtype
            assert output.isfinite().all()
            assert (output.float() - expected).square().mean().sqrt() < 0.05  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("layout", ["ours", "published"])
def test_damaged_states_raise_what_programs_expect(table, name, layout):
    """No state, whatever it lacks, keeps other networks from being asked, and what is loaded says what is wrong."""
    state = build_network({"type": name, **TINY[name]}).state_dict()
    state = state if layout == "ours" else to_official(state)
    first = [key for key in state if ".0.0." in key or ".blocks.0." in key or "layers.0." in key or key.count(".") < 3]
    for key in first:
        for damaged in (
            {k: v for k, v in state.items() if k != key},
            {**state, key: torch.tensor(1.0)},
            {**state, key: torch.zeros(3, 1, 2)},
        ):
            for support in table.architectures("detection")[: len(NETWORKS)]:
                support.detect(damaged)
            with contextlib.suppress(UserError, RuntimeError, spandrel.UnsupportedModelError):
                table.load(damaged)


def test_our_networks_stand_before_those_of_spandrel_and_are_installed_once(table):
    assert [support.architecture.id for support in table.architectures("detection")][:5] == list(NETWORKS)
    count = len(table)
    assert install(table) == []
    assert len(table) == count


def test_weights_of_others_are_none_of_ours(table):
    for name in NETWORKS:
        detect = table[name].detect
        assert not detect({"conv_first.weight": torch.zeros(8, 3, 3, 3), "upsample.0.weight": torch.zeros(4, 8, 3, 3)})
        assert not detect({"layers.0.residual_group.blocks.0.attn.relative_position_index": torch.zeros(4, 4)})
        assert not detect({"iter": 3})
    state = build_network({"type": "VMamba", "dims": 8, "depths": [1, 1, 1, 1], "num_classes": 2, "ssm_d_state": 1}).state_dict()
    with pytest.raises(spandrel.UnsupportedModelError):
        table.load(state)

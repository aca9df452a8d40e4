"""V2M: published numbers, the layouts of the corners, class tokens, sizes."""

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from eqmambair import UserError, build_network, load_weights
from eqmambair.archs.v2m_arch import V2M, V2MBlock, V2MPyramid
from eqmambair.checkpoints import infer_network, to_official
from eqmambair.checkpoints.systems.v2m import LAYOUT
from eqmambair.groups import group
from eqmambair.layers.corner_scan import CornerScan2d, V2MMixer, _joined, _windows
from eqmambair.layers.positions import insert_cross, remove_cross, resized
from eqmambair.layers.views import to_pixels, to_tokens
from tests.archs.forms import check_forms
from tests.golden import GoldenCase, relative_error

D4 = group("d4")
TOLERANCE = 1e-4
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "d_state": 4, "num_classes": 5}
MODELS = [
    "model_aligned_edge",
    "model_aligned_middle",
    "model_corners_mean_rect64x96",
    "model_released_middle",
    "model_released_p5",
    "model_released_sq64",
]


def golden(shared_dir, name) -> GoldenCase:
    return GoldenCase(shared_dir / "golden" / "v2m" / f"{name}.safetensors")


def stir(module: torch.nn.Module) -> torch.nn.Module:
    """Move every parameter off its start, so that scans matter."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def mixer_of(case: GoldenCase, prefix: str = "", **changes) -> V2MMixer:
    """The mixer of a golden case of parts."""
    channels = case.kwargs.get("d_model", case.kwargs.get("dim"))
    mixer = V2MMixer(channels, **changes)
    state = {f"layers.0.mixer.{key.removeprefix(prefix)}": value for key, value in case.state.items() if key.startswith(prefix)}
    mixer.load_state_dict({key.removeprefix("blocks.0.mixer."): value for key, value in LAYOUT.to_ours(state).items()})
    return mixer.eval()


@pytest.mark.parametrize("name", MODELS)
def test_outputs_of_golden_models(shared_dir, name):
    case = golden(shared_dir, name)
    network = build_network({"type": "V2M", **case.kwargs}).eval()
    assert load_weights(network, case.state).complete
    assert sum(parameter.numel() for parameter in network.parameters()) == int(case.metadata["params"])
    with torch.no_grad():
        assert relative_error(network(case.tensors["input/image"]), case.tensors["output/logits"]) < TOLERANCE


@pytest.mark.parametrize("name", ["model_released_sq64", "model_aligned_middle"])
def test_gradients_for_every_golden_parameter(shared_dir, name):
    case = golden(shared_dir, name)
    network = build_network({"type": "V2M", **case.kwargs}).eval()
    expected = case.part("grad/param")
    published = {key: value.clone().requires_grad_(key in expected) for key, value in case.state.items()}
    image = case.tensors["input/image"].clone().requires_grad_()
    functional_call(network, LAYOUT.to_ours(published), (image,)).square().mean().backward()
    assert relative_error(image.grad, case.tensors["grad/input/image"]) < TOLERANCE
    assert expected
    for key, gradient in expected.items():
        assert relative_error(published[key].grad, gradient) < TOLERANCE, key


def test_two_passes_over_sequences(shared_dir):
    case = golden(shared_dir, "passes_1d")
    mixer = mixer_of(case)
    with torch.no_grad():
        x = mixer.in_proj(case.tensors["input/seq"]).transpose(1, 2)  # (n, d, l)
        gate = F.silu(mixer.gate_proj(case.tensors["input/seq"])).transpose(1, 2)
        assert relative_error(mixer.gate_proj(case.tensors["input/seq"]), case.tensors["output/z"]) < TOLERANCE
        first = mixer.scan.rows(x[:, :, None])[:, :, 0] * gate
        assert relative_error(first.transpose(1, 2), case.tensors["output/pass1"]) < TOLERANCE
        second = mixer.scan.columns(first[..., None])[..., 0] * gate
        assert relative_error(second.transpose(1, 2), case.tensors["output/pass2_of_pass1"]) < TOLERANCE


@pytest.mark.parametrize("layout", ["released", "aligned", "corners"])
def test_mixer_in_every_layout(shared_dir, layout):
    case = golden(shared_dir, "mixer")
    x = to_pixels(case.tensors["input/x"], case.kwargs["H"], case.kwargs["W"])
    with torch.no_grad():
        y = mixer_of(case, layout=layout)(x)
    assert relative_error(to_tokens(y), case.tensors[f"output/{layout}"]) < TOLERANCE


def test_branches_of_the_released_layout(shared_dir):
    case = golden(shared_dir, "mixer")
    mixer = mixer_of(case)
    tokens = case.tensors["input/x"].unflatten(1, (case.kwargs["H"], case.kwargs["W"]))
    with torch.no_grad():
        x, gate = mixer.in_proj(tokens).permute(0, 3, 1, 2), F.silu(mixer.gate_proj(tokens)).permute(0, 3, 1, 2)
        for name, element in (("row_fwd", 0), ("col_fwd", 5), ("row_rev", 4), ("col_rev", 3)):
            branch = D4.act(mixer.scan.scan(D4.act(x, element), D4.act(gate, element)), D4.inverse(element))
            assert relative_error(branch.permute(0, 2, 3, 1), case.tensors[f"output/branch_{name}"]) < TOLERANCE


@pytest.mark.parametrize("layout", ["aligned", "corners"])
def test_mixer_of_an_oblong_map(shared_dir, layout):
    case = golden(shared_dir, "mixer_rect")
    with torch.no_grad():
        y = mixer_of(case, layout=layout)(case.tensors["input/x"].permute(0, 3, 1, 2))
    assert relative_error(y.permute(0, 2, 3, 1), case.tensors[f"output/{layout}"]) < TOLERANCE


def test_block_of_the_published_code(shared_dir):
    case = golden(shared_dir, "block_released")
    block = V2MBlock(case.kwargs["dim"], mixer_of(case, "mixer.", layout="released"), 0.0).eval()
    block.norm.load_state_dict({"weight": case.state["norm.weight"]})
    stream = to_pixels(case.tensors["input/hidden"] + case.tensors["input/residual"], case.kwargs["H"], case.kwargs["W"])
    with torch.no_grad():
        assert relative_error(to_tokens(stream), case.tensors["output/residual"]) < TOLERANCE
        mixed = block(stream) - stream
    assert relative_error(to_tokens(mixed), case.tensors["output/hidden"]) < TOLERANCE


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"cls": "mean"}, 6_852_712),
        ({"cls": "mean", "depth": 12}, 3_615_592),
        ({"cls": "mean", "embed_dim": 384}, 25_205_992),
        ({"cls": "middle"}, 6_852_712 + 11_136),
        ({"cls": "edge", "embed_dim": 384}, 25_205_992 + 22_272),
    ],
)
def test_published_sizes(options, expected):
    with torch.device("meta"):
        network = V2M(**options)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize(
    ("options", "expected"), [({}, 29_573_992), ({"depths": [2, 2, 15, 2], "ssm_ratio": 2.0, "drop_path_rate": 0.3}, 48_217_000)]
)
def test_sizes_of_the_pyramids(options, expected):
    with torch.device("meta"):
        network = V2MPyramid(**options)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize("shape", [(6, 6), (4, 7)])
def test_corners_commute_with_quarter_turns_and_aligned_with_transposition(shape):
    x = torch.randn(2, 16, *shape)
    corners, aligned = stir(V2MMixer(16, 4)), stir(V2MMixer(16, 4, layout="aligned"))
    with torch.no_grad():
        for turns in (1, 2, 3):
            torch.testing.assert_close(corners(x.rot90(turns, (2, 3))), corners(x).rot90(turns, (2, 3)))
        torch.testing.assert_close(aligned(x.mT), aligned(x).mT)
        assert not torch.allclose(aligned(x.rot90(1, (2, 3))), aligned(x).rot90(1, (2, 3)), atol=1e-3)
        assert not torch.allclose(corners(x.mT), corners(x).mT, atol=1e-3)


def test_a_scan_sees_what_is_above_and_to_the_left():
    scan = stir(CornerScan2d(8, 2, 4))
    x = torch.randn(1, 8, 5, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(scan.scan(x)[0, :, 2, 3].sum(), x)
    seen = gradient[0].abs().amax(0) > 0
    assert seen[:3, :4].all()
    seen[:3, :4] = False
    assert not seen.any()
    (gradient,) = torch.autograd.grad(scan(x)[0, :, 2, 3].sum(), x)
    assert (gradient[0].abs().amax(0) > 0).all()


def test_without_steps_the_columns_remember_no_more_than_their_taps():
    scan = stir(CornerScan2d(8, 2, 4))
    with torch.no_grad():
        scan.columns.dt_proj.weight.zero_()
        scan.columns.dt_proj.bias.fill_(-200.0)
        v = torch.randn(1, 8, 7, 3)
        expected = scan.columns.D.view(-1, 1, 1) * F.silu(scan.columns.conv(F.pad(v, (0, 0, 3, 0))))
        torch.testing.assert_close(scan.columns(v), expected)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_number_of_directions(number):
    scan = stir(CornerScan2d(8, 2, 4, num_directions=number))
    x = torch.randn(1, 8, 5, 6)
    turns = {1: [0], 2: [0, 2], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[number]
    with torch.no_grad():
        expected = sum(scan.scan(x.rot90(k, (2, 3))).rot90(-k, (2, 3)) for k in turns)
        torch.testing.assert_close(scan(x), expected)


def test_windows_are_scanned_by_themselves():
    x = torch.randn(2, 8, 7, 10)
    torch.testing.assert_close(_joined(_windows(x, 4), 4, 7, 10), x)
    local = stir(CornerScan2d(8, 2, 4, window=4))
    whole = CornerScan2d(8, 2, 4)
    whole.load_state_dict(local.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(local(x)[:, :, :4, 4:8], whole(x[:, :, :4, 4:8]))
    assert stir(V2M(**SMALL, window_size=2))(torch.rand(1, 3, 40, 24)).shape == (1, 5)


def test_positions_keep_their_values_at_their_own_size():
    grid = torch.randn(1, 3, 5, 4)
    assert torch.equal(resized(grid, 5, 4), grid)
    crossed = insert_cross(grid, torch.ones(1, 3, 1, 4), torch.zeros(1, 3, 6, 1), 2, 1)
    assert torch.equal(remove_cross(crossed, 2, 1), grid)
    assert crossed[0, 0, 2].tolist() == [1, 0, 1, 1, 1]


@pytest.mark.parametrize("cls", ["mean", "edge", "middle"])
@pytest.mark.parametrize("shape", [(32, 32), (45, 70), (8, 8)])
def test_any_size(cls, shape):
    network = stir(V2M(**SMALL, cls=cls))
    with torch.no_grad():
        image = torch.rand(2, 3, *shape)
        assert network(image).shape == (2, 5)
        assert network.features(image)[0].shape == (2, 16, shape[0] // 8, shape[1] // 8)
        torch.testing.assert_close(network(image)[1:], network(image[1:]))


@pytest.mark.parametrize("cls", ["mean", "middle"])
def test_a_backbone_yields_four_scales_of_four_depths(cls):
    network = stir(V2M(**{**SMALL, "num_classes": 0, "depth": 5, "patch_size": 16, "img_size": 64}, cls=cls))
    assert network.feature_channels == (16, 16, 16, 16)
    image = torch.rand(2, 3, 61, 40)
    whole = F.pad(image, (0, 8, 0, 3))
    classifier = V2M(**{**SMALL, "depth": 5, "patch_size": 16, "img_size": 64}, cls=cls).eval()
    assert set(load_weights(classifier, network.state_dict(), strict=False).missing) == {"norm.weight", "head.weight", "head.bias"}
    with torch.no_grad():
        maps = network.features(image)
        assert [tuple(x.shape) for x in maps] == [(2, 16, 16, 12), (2, 16, 8, 6), (2, 16, 4, 3), (2, 16, 2, 2)]
        for number, depth in enumerate((2, 3, 4, 5)):
            classifier.blocks = network.blocks[:depth]
            torch.testing.assert_close(maps[number], network.scales[number](classifier.features(whole)[0]))
    with pytest.raises(RuntimeError, match="without a head"):
        network(image)


def test_a_segmenter_on_the_plain_network_learns():
    backbone = {"type": "V2M", **SMALL, "patch_size": 16, "depth": 4}
    network = build_network({"type": "UPerNet", "backbone": backbone, "channels": 8, "aux_channels": 8, "num_classes": 3})
    logits = network(torch.rand(2, 3, 70, 45))
    assert {name: tuple(x.shape) for name, x in logits.items()} == {"out": (2, 3, 20, 12), "aux": (2, 3, 5, 3)}
    sum(x.square().mean() for x in logits.values()).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    with torch.no_grad():
        assert network.eval()(torch.rand(1, 3, 70, 45)).shape == (1, 3, 70, 45)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="holds no patch"):
        V2M(**SMALL)(torch.rand(1, 3, 7, 32))
    with pytest.raises(ValueError, match="square maps only"):
        V2M(**SMALL, layout="released")(torch.rand(1, 3, 32, 40))
    for argument, value in (("cls", "first"), ("layout", "corner"), ("num_directions", 5), ("depth", 0), ("window_size", 0)):
        with pytest.raises(ValueError, match=argument.split("_")[0]):
            V2M(**{**SMALL, argument: value})


def test_weights_go_to_the_published_layout_and_back():
    network = stir(V2M(**SMALL))
    published = to_official(network.state_dict())
    assert published["layers.1.mixer.conv1d_2.weight"].shape == (32, 1, 4)
    assert infer_network(published) == infer_network(network.state_dict())
    other = build_network(infer_network(published)).eval()
    load_weights(other, {"model": published})
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(other(image), network(image))


def test_a_pyramid_is_inferred_and_has_no_published_layout():
    network = V2MPyramid(dims=[8, 8, 16, 16], depths=[1, 1, 1, 1], ssm_ratio=2.0, num_classes=3)
    again = build_network(infer_network(network.state_dict()))
    load_weights(again, network.state_dict())
    assert [tuple(x.shape) for x in again.features(torch.rand(1, 3, 40, 33))] == [(1, 8, 10, 9), (1, 8, 5, 5), (1, 16, 3, 3), (1, 16, 2, 2)]
    with pytest.raises(UserError, match="no weights"):
        to_official(network.state_dict())


def test_the_released_start_of_the_second_pass():
    for released, low, high in ((True, 0.6, 0.8), (False, 0.0009, 0.11)):
        network = V2M(**SMALL, released_init=released)
        steps = F.softplus(network.blocks[0].mixer.scan.columns.dt_proj.bias)
        assert low < steps.min() <= steps.max() < high


@pytest.mark.slow
@pytest.mark.parametrize("build", [lambda: V2M(**{**SMALL, "depth": 1}), lambda: V2MPyramid(dims=[8, 8], depths=[1, 1], num_classes=3)])
def test_compiles_exports_folds_and_runs_in_half_precision(build):
    network = stir(build())
    check_forms(network, [torch.rand(2, 3, 40, 49), torch.rand(3, 3, 64, 33)])

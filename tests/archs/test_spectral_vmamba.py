"""Spectral VMamba: published numbers, graphs and orders, what turns keep and what they do not, and decompositions that fail."""

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F
from torchvision.models import resnet18

from eqmambair import build_network, load_weights
from eqmambair.archs.spectral_vmamba_arch import SpectralVMamba
from eqmambair.archs.vmamba_arch import VisionBlock
from eqmambair.checkpoints import infer_network, to_official
from eqmambair.checkpoints.systems.spectral_vmamba import LAYOUT
from eqmambair.layers.rotational import RotationalNormaliser
from eqmambair.layers.scan2d import CrossScan2d
from eqmambair.layers.spectral import (
    SpectralDown,
    kept_positions,
    laplacian,
    similarity_graph,
    turned_alike,
    values_of_order,
    visiting_order,
    with_signs,
)
from eqmambair.ops.spectral import smallest_eigenvectors
from tests.archs.forms import check_forms
from tests.golden import GoldenCase, relative_error

TOLERANCE = 1e-4
SMALL = {"dims": [12, 24, 48, 96], "depths": [1, 1, 1, 1], "rfn_width": 3, "num_classes": 5, "top_k": 2}
INJECTED = ["model_64", "model_128_keep_k2", "model_96_index_fixed"]


def golden(shared_dir, name) -> GoldenCase:
    return GoldenCase(shared_dir / "golden" / "spectral_vmamba" / f"{name}.safetensors")


def small(**changes) -> SpectralVMamba:
    """A network whose scans and statistics matter."""
    network = build_network({"type": "SpectralVMamba", **SMALL, **changes}).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.startswith("rfn."):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("name", INJECTED)
def test_outputs_of_published_weights(shared_dir, name):
    case = golden(shared_dir, name)
    network = build_network({"type": "SpectralVMamba", **case.kwargs}).eval()
    assert load_weights(network, case.state).complete
    assert sum(p.numel() for p in network.parameters()) == int(case.metadata["params"])
    image, order = case.tensors["input/image"], case.tensors["input/order0"]
    with torch.no_grad():
        assert relative_error(network(image, order=order), case.tensors["output/logits"]) < TOLERANCE
        if "output/rfn" in case.tensors:
            assert relative_error(network.rfn(image), case.tensors["output/rfn"]) < TOLERANCE
            inner = network.inner_features(network.rfn(image)).mT.unflatten(2, network.rfn(image).shape[2:])
            assert relative_error(inner, case.tensors["output/features0"]) < TOLERANCE


def test_gradients_for_every_published_parameter(shared_dir):
    case = golden(shared_dir, "model_64")
    network = build_network({"type": "SpectralVMamba", **case.kwargs}).eval()
    expected = case.part("grad/param")
    published = {key: value.clone().requires_grad_(key in expected) for key, value in case.state.items()}
    image = case.tensors["input/image"].clone().requires_grad_()
    functional_call(network, LAYOUT.to_ours(published), (image, case.tensors["input/order0"])).square().mean().backward()
    assert relative_error(image.grad, case.tensors["grad/input/image"]) < TOLERANCE
    assert expected
    for key, gradient in expected.items():
        assert relative_error(published[key].grad, gradient) < TOLERANCE, key


def test_the_invariant_mode_runs_free_and_keeps_the_four_turns(shared_dir):
    case = golden(shared_dir, "model_128_invariant")
    network = build_network({"type": "SpectralVMamba", **case.kwargs}).eval()
    load_weights(network, case.state)
    image = case.tensors["input/image"]
    with torch.no_grad():
        assert relative_error(network.spectrum(image)[:, :3].float(), case.tensors["output/eigenvalues"]) < TOLERANCE
        features = network.inner_features(network.rfn(image))
        paths = visiting_order(network.spectral_order(features, 8, 8))
        assert torch.equal(paths[:, :2].mT, case.tensors["input/order0"])
        for turns in range(4):
            assert relative_error(network(image.rot90(turns, (2, 3))), case.tensors["output/logits"]) < 1e-5


def test_graph_and_order(shared_dir):
    case = golden(shared_dir, "graph_order")
    features = case.tensors["input/features"].flatten(2).mT
    graph = similarity_graph(features, case.kwargs["knn"], "batch")
    assert relative_error(graph.float(), case.tensors["output/adjacency"]) < TOLERANCE
    assert relative_error(laplacian(graph).float(), case.tensors["output/laplacian"]) < TOLERANCE
    values, _ = smallest_eigenvectors(laplacian(graph), 5)
    expected = case.tensors["output/eigenvalues"]
    assert (values[:, : expected.shape[1]] - expected).abs().max() < TOLERANCE
    for rule, name in (("token", "order_released"), ("vector", "order_vector_sign")):
        signed = with_signs(case.tensors["input/eigvecs"], rule).mT.unflatten(2, (6, 6))
        order = visiting_order(signed)[:, :4]
        assert torch.equal(order.mT, case.tensors[f"output/{name}"])
        if rule == "token":
            assert torch.equal(order.argsort(-1).mT, case.tensors["output/inverse_order"])
            torch.testing.assert_close(signed.flatten(2).gather(2, order).mT, case.tensors["output/sorted_values"])


def test_orders_of_smaller_maps(shared_dir):
    tensors = golden(shared_dir, "order_down").tensors
    for start, sides, names in (
        ("order_8x8", (8, 8), ["order_4x4", "order_2x2", "order_1x1"]),
        ("order_7x7", (7, 7), ["order_7to4", "order_7to4to2"]),
        ("order_5x7", (5, 7), ["order_5x7to3x4"]),
    ):
        order = tensors[f"input/{start}"].mT
        values = values_of_order(order, *sides)
        assert torch.equal(visiting_order(values)[:, : order.shape[1]], order)
        for name in names:
            values = kept_positions(values)
            assert torch.equal(visiting_order(values)[:, : order.shape[1]].mT, tensors[f"output/{name}"])


def test_rotational_normaliser(shared_dir):
    case = golden(shared_dir, "rfn")
    rfn = RotationalNormaliser(case.kwargs["rfn_width"])
    rfn.load_state_dict(case.state)
    image, oblong = case.tensors["input/image"], case.tensors["input/image_rect"]
    with torch.no_grad():
        assert relative_error(rfn.trunk(image), case.tensors["output/trunk"]) < TOLERANCE
        assert relative_error(rfn(image), case.tensors["output/rfn"]) < TOLERANCE
        assert relative_error(rfn(oblong), case.tensors["output/rfn_rect"]) < TOLERANCE
        for picture in (image, oblong):
            assert torch.equal(rfn(picture.rot90(1, (2, 3))), rfn(picture).rot90(1, (2, 3)))


def part(case: GoldenCase, prefix: str, ours: str) -> dict[str, torch.Tensor]:
    """A part's published state under our keys, every tensor with a gradient."""
    state = {f"layers.0.blocks.0.{prefix}{key}": value.clone().requires_grad_() for key, value in case.state.items()}
    converted = {key.removeprefix(f"stages.0.0.{ours}"): value for key, value in LAYOUT.to_ours(state).items()}
    return {key: state[key] for key in state} | {"": converted}


def test_operator_with_its_gradients(shared_dir):
    case = golden(shared_dir, "spectral_op")
    scan = CrossScan2d(case.kwargs["d_model"], 1, case.kwargs["ssm_ratio"], gated=False, paths=8, conv=False)
    state = part(case, "op.", "scan.")
    order = case.tensors["input/order"].mT
    x = case.tensors["input/x"].clone().requires_grad_()
    y = functional_call(scan, state[""], (x, torch.cat([order, order.flip(-1)], 1)))
    assert relative_error(y, case.tensors["output/y"]) < TOLERANCE
    y.square().mean().backward()
    assert relative_error(x.grad, case.tensors["grad/input/x"]) < TOLERANCE
    for key, gradient in case.part("grad/param").items():
        assert relative_error(state[f"layers.0.blocks.0.op.{key}"].grad, gradient) < TOLERANCE, key
    scan.load_state_dict({key: value.detach() for key, value in state[""].items()})
    assert relative_error(scan.inner(x).permute(0, 3, 1, 2), case.tensors["output/inner"]) < TOLERANCE


def test_block(shared_dir):
    case = golden(shared_dir, "block")
    network = small(dims=[20, 20], depths=[1, 1], top_k=4)
    block: VisionBlock = network.stages[0][0]
    block.load_state_dict({key: value.detach() for key, value in part(case, "", "")[""].items()})
    order = case.tensors["input/order"].mT
    with torch.no_grad():
        y = block(case.tensors["input/x"], torch.cat([order, order.flip(-1)], 1))
    assert relative_error(y, case.tensors["output/y"]) < TOLERANCE


@pytest.mark.parametrize(
    ("options", "trainable", "trunk"),
    [
        ({}, 203_988_068, 2_782_784),
        ({"depths": [2, 2, 15, 2]}, 351_741_028, 2_782_784),
        ({"dims": [256] * 4}, 10_579_556, 2_782_784),
        ({"dims": [256] * 4, "depths": [2, 2, 15, 2]}, 19_992_676, 2_782_784),
    ],
)
def test_published_sizes(options, trainable, trunk):
    with torch.device("meta"):
        network = SpectralVMamba(**options)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == trainable
    assert sum(p.numel() for p in network.rfn.parameters()) == trunk


def test_merged_identity_scans_are_as_many_inputs_as_paths():
    scan = CrossScan2d(6, 1, 2.0, gated=False, paths=4, conv=False)
    with torch.no_grad():
        scan.x_proj.weight.zero_()
        scan.out_norm, scan.out_proj = torch.nn.Identity(), torch.nn.Identity()
        x = torch.randn(2, 6, 3, 5)
        order = visiting_order(torch.randn(2, 2, 3, 5))
        torch.testing.assert_close(scan(x, order), 4 * scan.inner(x).permute(0, 3, 1, 2))


def test_laplacian_has_its_spectrum_and_its_null_vector():
    graph = similarity_graph(torch.randn(2, 20, 3), 4)
    assert torch.equal(graph, graph.mT)
    matrix = laplacian(graph)
    values, vectors = smallest_eigenvectors(matrix, 3)
    assert values.min() > -1e-12
    assert values.max() <= 2
    torch.testing.assert_close(torch.einsum("bnm,bm->bn", matrix, graph.sum(-1).sqrt()), torch.zeros_like(values), atol=1e-12, rtol=0)
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(3, dtype=torch.float64).expand(2, 3, 3))


def test_a_floor_joins_the_parts_of_a_graph():
    x = torch.cat([torch.randn(1, 8, 3), torch.randn(1, 8, 3) + 50], 1)
    alone, joined = (smallest_eigenvectors(laplacian(similarity_graph(x, 4, floor=floor)), 2)[0] for floor in (0.0, 1e-3))
    assert (alone < 1e-6).sum() >= 2
    assert (joined < 1e-6).sum() == 1


def test_negating_a_vector_reverses_its_path():
    values = torch.randn(1, 3, 4, 5)
    order = visiting_order(values)
    values[:, 1] *= -1
    other = visiting_order(values)
    assert torch.equal(other[:, [1, 4]], order[:, [4, 1]])
    assert torch.equal(other[:, [0, 2, 3, 5]], order[:, [0, 2, 3, 5]])


def test_signs_do_not_depend_on_the_solver():
    vectors = torch.randn(2, 15, 3).double()
    flipped = vectors * torch.tensor([1.0, -1.0, -1.0])
    assert torch.equal(with_signs(vectors, "vector"), with_signs(flipped, "vector"))
    assert not torch.equal(with_signs(vectors, "token"), with_signs(flipped, "token"))


def test_permuting_tokens_permutes_the_order():
    network = small()
    features, permutation = torch.randn(1, 30, 8), torch.randperm(30)
    order = visiting_order(network.spectral_order(features, 5, 6))
    moved = visiting_order(network.spectral_order(features[:, permutation], 5, 6))
    assert torch.equal(permutation[moved], order)


@pytest.mark.parametrize("shape", [(8, 8), (7, 7), (5, 8), (1, 1)])
def test_reduction_of_a_map_keeps_turns_unless_released(shape):
    x = torch.randn(1, 2, *shape)
    down = SpectralDown(2, 2, released=False)
    assert turned_alike(x).shape == kept_positions(x).shape == down(x, x)[0].shape
    torch.testing.assert_close(turned_alike(x.rot90(1, (2, 3))), turned_alike(x).rot90(1, (2, 3)))
    if shape == (8, 8):
        assert not torch.allclose(kept_positions(x.rot90(1, (2, 3))), kept_positions(x).rot90(1, (2, 3)))


@pytest.mark.parametrize("side", [128, 112, 176])
def test_turned_pictures_have_the_same_logits_in_the_invariant_mode_alone(side):
    image = F.interpolate(torch.rand(1, 3, 9, 9), (side, side), mode="bicubic")
    invariant, released = small(), small(mode="released")
    released.load_state_dict(invariant.state_dict())
    changes = {}
    with torch.no_grad():
        for name, network in (("invariant", invariant), ("released", released)):
            logits = [network(image.rot90(turns, (2, 3))) for turns in range(4)]
            changes[name] = max(relative_error(each, logits[0]) for each in logits[1:])
    assert changes["invariant"] < 1e-5
    assert changes["released"] > 1e-3


def test_an_image_does_not_depend_on_its_companions_unless_released():
    images, network = torch.rand(3, 3, 96, 80), small()
    with torch.no_grad():
        torch.testing.assert_close(network(images)[1:2], network(images[1:2]))
    features = torch.randn(2, 20, 3) * torch.tensor([1.0, 5.0])[:, None, None]
    assert torch.equal(similarity_graph(features, 4)[:1], similarity_graph(features[:1], 4))
    assert not torch.allclose(similarity_graph(features, 4, "batch")[:1], similarity_graph(features[:1], 4, "batch"), atol=1e-2)


def test_training_goes_on_when_the_decomposition_fails(monkeypatch):
    network = small().train()
    images = torch.rand(3, 3, 96, 96)
    good = visiting_order(network.spectral_order(network.inner_features(network.rfn(images)), 6, 6))
    images[1, 0, 5, 5] = float("nan")
    with pytest.warns(RuntimeWarning, match="1 of 3 eigen-decompositions failed"):
        logits = network(images)
    assert logits.isfinite().all(-1).tolist() == [True, False, True]
    with pytest.warns(RuntimeWarning):
        order = visiting_order(network.spectral_order(network.inner_features(network.rfn(images)), 6, 6))
    assert torch.equal(order[[0, 2]], good[[0, 2]])
    assert torch.equal(order[1, 0], torch.arange(36))

    solver = torch.linalg.eigh

    def stubborn(matrices):
        if matrices.dim() == 3 or abs(float(matrices[0, 1]) - marked) < 1e-12:
            raise torch.linalg.LinAlgError("no convergence")
        return solver(matrices)

    matrices = laplacian(similarity_graph(torch.randn(3, 10, 4), 4, floor=0.1))
    marked = float(matrices[2, 0, 1])
    expected = smallest_eigenvectors(matrices, 2)[0]
    monkeypatch.setattr(torch.linalg, "eigh", stubborn)
    with pytest.warns(RuntimeWarning, match="1 of 3"):
        values, vectors = smallest_eigenvectors(matrices, 2)
    torch.testing.assert_close(values[:2], expected[:2])
    assert values[2].abs().max() == 0
    assert (vectors[2].diff(dim=0) > 0).all()


def test_flat_pictures_and_small_ones():
    network = small()
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 64, 64)).isfinite().all()
        with pytest.raises(ValueError, match="tokens are too few"):
            network(torch.rand(1, 3, 32, 32))


def test_the_trunk_is_frozen_and_takes_published_weights():
    network = small(rfn_width=64, dims=[8, 8], depths=[1, 1])
    assert isinstance(network.project, torch.nn.Conv2d)
    resnet = resnet18()
    report = load_weights(network, resnet.state_dict(), strict=False)
    assert not report.unexpected
    assert not report.mismatched
    assert torch.equal(network.rfn.layer3[1].conv2.weight, resnet.layer3[1].conv2.weight)
    before = network.rfn.bn1.running_mean.clone()
    network.train()(torch.rand(2, 3, 64, 64)).sum().backward()
    assert torch.equal(network.rfn.bn1.running_mean, before)
    assert all(parameter.grad is None for parameter in network.rfn.parameters())
    missing = [name for name, parameter in network.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert missing == []


def test_weights_go_to_the_published_layout_and_back():
    network = small(top_k=3)
    published = to_official(network.state_dict())
    assert published["layers.0.blocks.0.op.x_proj_weight"].shape == (6, 3, 24)
    assert infer_network(published) == infer_network(network.state_dict())
    other = build_network(infer_network(published)).eval()
    stored = {**published, "model_patchification.fc.weight": torch.zeros(2, 2), "model_patchification.layer4.0.bn1.bias": torch.zeros(2)}
    assert load_weights(other, {"model": stored}).complete
    image = torch.rand(1, 3, 64, 80)
    with torch.no_grad():
        assert torch.equal(other(image), network(image))


@pytest.mark.parametrize(("argument", "value"), [("mode", "free"), ("in_chans", 1), ("top_k", 0), ("graph_floor", 2.0), ("dims", [12])])
def test_wrong_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=argument):
        SpectralVMamba(**{**SMALL, argument: value})


@pytest.mark.slow
def test_compiles_exports_folds_and_runs_in_half_precision():
    network = small(dims=[12, 24], depths=[1, 1])
    check_forms(network, [torch.rand(2, 3, 96, 80), torch.rand(3, 3, 65, 130)], smallest=64, alike=0.9)

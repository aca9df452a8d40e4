"""Published weights of VMamba, EQ-VMamba and the two segmentation networks on them give the published numbers."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from eqmambair import UserError, build_network, load_weights
from eqmambair.checkpoints import infer_network, to_official
from eqmambair.checkpoints.systems import find_layout
from tests.golden import GoldenCase, relative_error

MODELS = ["vmamba/model_a", "vmamba/model_b", "vmamba/model_c", "vmamba/ablation_rotscan_a"]
MODELS += ["eq_vmamba/model_a", "eq_vmamba/model_b", "eq_vmamba/model_c", "eq_vmamba/model_d_with_cached_filters"]
MODELS += ["eq_vmamba/ablation_independent_a"]
BACKBONES = ["vmamba/backbone_a", "eq_vmamba/backbone_a"]
SEGMENTERS = ["segmentation/segmentor_plain_a", "segmentation/segmentor_eq_a", "segmentation/segmentor_eq_b"]
COMPATIBLE = ["eq_vmamba/model_c", "segmentation/segmentor_eq_b"]  # sizes at which the published networks do not commute
TOLERANCE = 2e-5  # of the largest entry; measured below 3e-6
GRADIENT_TOLERANCE = 3e-4  # of each gradient's largest entry; measured below 3e-5


def options_of(case: GoldenCase, name: str) -> dict:
    """The network of a case, as an option file would name it."""
    equivariant = name.startswith("eq_vmamba") or case.kwargs.get("equivariant", False)
    kind = "EQVMamba" if equivariant else "VMamba"
    exact = {"exact_any_size": False} if name in COMPATIBLE else {}
    if "backbone" in case.kwargs:
        backbone = {"type": kind, **case.kwargs["backbone"], **exact}
        return {"type": "EQUPerNet" if equivariant else "UPerNet", **case.kwargs, "backbone": backbone}
    scan = {"cross_scan": "eq"} if "rotscan" in name else {}
    return {"type": kind, **case.kwargs, **exact, **scan}


def load_case(shared_dir, name) -> tuple[GoldenCase, nn.Module]:
    case = GoldenCase(shared_dir / "golden" / f"{name}.safetensors")
    network = build_network(options_of(case, name)).eval()
    assert load_weights(network, case.state).complete
    return case, network


def slowest(x: Tensor) -> Tensor:
    """Channels 4*field + orientation -> orientation * fields + field."""
    return x.unflatten(1, (-1, 4)).transpose(1, 2).flatten(1, 2)


def outputs(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What a network yields, under the names of the cases."""
    if hasattr(network, "decoder"):
        logits = network.logits(x)
        return {"logits": logits["out"], "aux_logits": logits["aux"], "upsampled": network(x)}
    y = network(x)
    return {"logits": y} if isinstance(y, Tensor) else {f"feat{i}": each for i, each in enumerate(y)}


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS + BACKBONES + SEGMENTERS)
def test_output_of_published_weights(shared_dir, name):
    case, network = load_case(shared_dir, name)
    x, expected = case.tensors["input/x"], case.part("output")
    expected.pop("loss", None)
    found = outputs(network, x)
    found |= {f"rot1_{key}": value for key, value in outputs(network, x.rot90(1, (-2, -1))).items()}
    assert expected
    for key, value in expected.items():
        if "feat" in key and name.startswith("eq_"):
            value = slowest(value)
        assert relative_error(found[key], value) < TOLERANCE, key


@pytest.mark.parametrize("name", MODELS + BACKBONES + SEGMENTERS)
def test_count_of_trainable_parameters(shared_dir, name):
    case, network = load_case(shared_dir, name)
    found = sum(parameter.numel() for parameter in network.parameters())
    if "independent" in name:  # the case counts the group form with its zeros
        found += 3 * sum(b.scan.x_proj.weight.numel() + b.scan.dt_proj.weight.numel() for stage in network.stages for b in stage)
    assert found == int(case.metadata["params"])


@pytest.mark.parametrize("name", ["vmamba/model_a", "eq_vmamba/model_a", "segmentation/segmentor_plain_a", "segmentation/segmentor_eq_a"])
def test_gradients_for_every_published_parameter(shared_dir, name):
    case, network = load_case(shared_dir, name)
    expected = case.part("grad/param")
    published = {key: value.clone().requires_grad_(key in expected) for key, value in case.state.items()}
    x = case.tensors["input/x"].clone().requires_grad_()
    if hasattr(network, "decoder"):  # the case's loss is that of the main logits, before they are resized
        network.forward = lambda x: network.logits(x, auxiliary=False)["out"]
    functional_call(network, find_layout(published).to_ours(published), (x,)).square().mean().backward()
    assert relative_error(x.grad, case.tensors["grad/input/x"]) < GRADIENT_TOLERANCE
    assert expected
    for key, gradient in expected.items():
        if key.startswith("auxiliary_head"):
            assert published[key].grad is None
            assert not gradient.any()
        else:
            assert relative_error(published[key].grad, gradient) < GRADIENT_TOLERANCE, key


@pytest.mark.parametrize("name", MODELS + BACKBONES + SEGMENTERS)
def test_published_form_of_our_weights_is_the_one_that_was_read(shared_dir, name):
    case, network = load_case(shared_dir, name)
    official = to_official(network.state_dict())
    bases = {key: value for key, value in case.state.items() if key.endswith(".Basis")}
    derived = {f"{key.removesuffix('Basis')}{end}" for key in bases for end in ("filter", "bias")}
    assert set(official) == set(case.state) - derived
    for key, value in official.items():
        basis = f"{key.removesuffix('weights')}Basis"
        if key in bases:
            continue  # another orthogonal mix than the file's: the filters are what must agree
        expected = case.state[key]
        if basis in bases:
            value, expected = (
                torch.einsum("...q,ijq->...ij", w, b[:, :, 0]) for w, b in ((value, official[basis]), (expected, bases[basis]))
            )
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6, msg=key)
    again = build_network(options_of(case, name))
    assert load_weights(again, official).complete


@pytest.mark.parametrize("name", MODELS + BACKBONES + SEGMENTERS)
def test_options_follow_from_the_shapes(shared_dir, name):
    case, network = load_case(shared_dir, name)
    for state in (case.state, network.state_dict()):
        inferred = build_network(infer_network(state))
        assert type(inferred) is type(network)
        assert {key: value.shape for key, value in inferred.state_dict().items()} == {
            key: value.shape for key, value in network.state_dict().items()
        }


def test_older_names_of_published_files_are_read(shared_dir):
    case, network = load_case(shared_dir, "vmamba/model_a")
    words = {".norm.": ".ln_1.", ".op.": ".self_attention.", "patch_embed.0.": "patch_embed.proj.", "patch_embed.2.": "patch_embed.norm."}
    older = {}
    for key, value in case.state.items():
        key = key.removeprefix("classifier.") if key.startswith("classifier.") else key
        for new, old in words.items():
            key = key if key.startswith("norm.") else key.replace(new, old)
        older[key] = value
    assert not set(older) & {"patch_embed.0.weight", "classifier.norm.weight", "layers.0.blocks.0.norm.weight"}
    again = build_network(options_of(case, "vmamba/model_a"))
    assert load_weights(again, older).complete
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in again.state_dict().items())


def test_linear_layers_stored_as_convolutions_are_read(shared_dir):
    case, network = load_case(shared_dir, "vmamba/model_a")
    linear = (".in_proj.weight", ".out_proj.weight", ".fc1.weight", ".fc2.weight")
    as_convs = {key: value[..., None, None] if key.endswith(linear) else value for key, value in case.state.items()}
    again = build_network(options_of(case, "vmamba/model_a"))
    assert load_weights(again, as_convs).complete
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize("kind", ["vmamba", "eq_vmamba"])
def test_classifier_weights_fill_the_backbone_of_a_segmenter(shared_dir, kind):
    case, _ = load_case(shared_dir, f"{kind}/model_a")
    backbone = {key: value for key, value in options_of(case, f"{kind}/model_a").items() if key != "num_classes"}
    segmenter = build_network({"type": "EQUPerNet" if "eq" in kind else "UPerNet", "backbone": backbone, "channels": 16, "aux_channels": 8})
    report = load_weights(segmenter.backbone, case.state, strict=False)
    assert set(report.unexpected) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert not report.missing
    assert not report.mismatched


def test_networks_without_a_published_form_are_refused_by_name():
    small = {"dims": [16, 16, 16, 16], "depths": [1, 1, 1, 1], "num_classes": 3}
    with pytest.raises(UserError, match="8 elements"):
        to_official(build_network({"type": "EQVMamba", "group": "d4", **small}).state_dict())
    with pytest.raises(UserError, match="patches of 4 pixels"):
        to_official(build_network({"type": "VMamba", "patch_size": 8, **small}).state_dict())
    mixed = {"type": "UPerNet", "backbone": {"type": "EQVMamba", **small}, "channels": 16, "aux_channels": 8}
    with pytest.raises(UserError, match="on the backbones VMamba"):
        to_official(build_network(mixed).state_dict())

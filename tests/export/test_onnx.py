"""Networks as ONNX files give torch's numbers at every size, by the commands too; what cannot be exported is refused and not written."""

import json
import re
import sys

import numpy as np
import pytest
import torch

from eqmambair import build_network
from eqmambair.checkpoints import save_weights
from eqmambair.cli import classify, export_onnx, inference
from eqmambair.data.io import read_image, write_image
from eqmambair.errors import UserError
from eqmambair.ops import selective_scan
from tests.conftest import ROOT
from tests.oracles import scan as oracle

for _package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(_package, reason="needs the extra [onnx]")

import onnx  # noqa: E402 (may be missing)
import onnx.inliner  # noqa: E402
import onnx.parser  # noqa: E402
import onnxruntime  # noqa: E402

from eqmambair.export import OnnxNetwork, export_network, scan, spectral, writing  # noqa: E402
from eqmambair.export.scan import ScanForm  # noqa: E402

_IR = {"embed_dim": 32, "depths": [1], "d_state": 2, "mlp_ratio": 1.0}
_LIGHT = {**_IR, "upscale": 2, "upsampler": "pixelshuffledirect"}
_V2 = {"embed_dim": 16, "depths": [2], "d_state": 1, "num_heads": [4], "window_size": 4, "inner_rank": 4, "num_tokens": 8, "mlp_ratio": 1.0}
_PYRAMID = {"dims": [8, 16], "depths": [1, 1], "num_classes": 5}
_GROUPS = {"stem_hidden_dim": 8, "num_classes": 5}
_SPECTRAL = {"type": "SpectralVMamba", "dims": [16, 24], "depths": [1, 1], "rfn_width": 4, "num_classes": 5}
NETWORKS = {
    "eq c4": {"type": "EQMambaIR", **_LIGHT},
    "eq d4, gray": {"type": "EQMambaIR", **_IR, "group": "d4", "in_chans": 1},
    "plain": {"type": "MambaIR", **_IR, "upscale": 3, "upsampler": "pixelshuffle"},
    "v2": {"type": "MambaIRv2Light", **_V2, "upscale": 2},
    "unet": {"type": "MambaIRUNet", "dim": 30, "num_blocks": [1] * 4, "num_refinement_blocks": 1, "d_state": 1, "mlp_ratio": 1.0},
    "vmamba": {"type": "VMamba", **_PYRAMID},
    "eq-vmamba": {"type": "EQVMamba", **_PYRAMID},
    "groupmamba": {"type": "GroupMamba", **_GROUPS, "embed_dims": [16, 16, 32, 32], "depths": [1] * 4, "mlp_ratios": [2] * 4},
    "v2m": {"type": "V2M", "img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "d_state": 2, "num_classes": 5},
    "v2m pyramid": {"type": "V2MPyramid", **_PYRAMID},
}
#: Those that take more than ten seconds.
SLOW = ("unet", "eq-vmamba", "groupmamba", "v2m", "v2m pyramid")
FIXTURES = ("eq c4", "vmamba")
EVERY = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NETWORKS if name not in FIXTURES]


def moved(options, seed=0):
    """A network whose parameters are far from those that start as zeros and ones."""
    torch.manual_seed(seed)
    network = build_network(options).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * parameter.abs().mean() * torch.randn_like(parameter)
    return network


@pytest.mark.parametrize("name", EVERY)
def test_a_file_gives_torchs_numbers_for_every_batch_and_size(tmp_path, name):
    options = NETWORKS[name]
    network = moved(options)
    written = export_network(network, options, tmp_path / "x.onnx")
    assert len(written.differences) == 3
    model = onnx.load(tmp_path / "x.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    exported = OnnxNetwork(tmp_path / "x.onnx")
    assert str(ROOT).encode() not in (tmp_path / "x.onnx").read_bytes()  # the exporter's notes, several times the weights
    assert exported.facts.options == options
    give_the_same_numbers(exported, network)


def give_the_same_numbers(exported, network):
    for batch, height, width in ((3, 41, 70), (1, 33, 34)):
        images = torch.rand(batch, network.in_chans, height, width)
        with torch.inference_mode():
            torch.testing.assert_close(exported(images), network(images), rtol=0, atol=2e-5)  # rounding in float32


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2)])
def test_the_smallest_pictures_are_restored_too(light_file, size):
    network, path = light_file
    image = torch.rand(1, 3, *size)
    with torch.inference_mode():
        torch.testing.assert_close(OnnxNetwork(path)(image), network(image), rtol=0, atol=2e-5)


def test_the_output_of_an_exported_eq_network_turns_with_the_picture(light_file):
    exported = OnnxNetwork(light_file[1])
    image = torch.rand(1, 3, 23, 37)
    turned = exported(image.rot90(1, (-2, -1)))
    torch.testing.assert_close(turned, exported(image).rot90(1, (-2, -1)), rtol=0, atol=1e-5)
    assert (turned - exported(image).rot90(-1, (-2, -1))).abs().max() > 1e-2


def function_session(text, inputs, outputs):
    """onnxruntime over a model that is one of our functions, its inputs and outputs typed."""
    call = text.split("\n")[1]
    name, given = call.split(" (")[0], call.split("(")[1].split(")")[0]
    results = call.split("=> (")[1].split(")")[0]
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 18, "eqmambair": 1]> one ({inputs}) => ({outputs}) {{ {results} = eqmambair.{name}({given}) }}'
    )
    model.functions.append(onnx.parser.parse_function(text))
    return onnxruntime.InferenceSession(onnx.inliner.inline_local_functions(model).SerializeToString(), providers=["CPUExecutionProvider"])


def scan_session(form):
    """onnxruntime over a model that is one selective scan."""
    types = {"A": "float", "D": "float", "delta_bias": "float", "order": "int64"}
    ranks = {"A": 3, "D": 2, "delta_bias": 2, "order": form.order}
    token = "float16" if form.half else "float"
    given = ", ".join(f"{types.get(name, token)}[{','.join('?' * ranks.get(name, 4))}] {name}" for name in form.inputs)
    return function_session(form.function(), given, f"{token}[?,?,?,?] y")


@pytest.mark.parametrize(
    ("order", "shared", "states", "softplus"), [(2, True, 3, True), (2, False, 1, True), (3, False, 2, True), (0, True, 2, False)]
)
@pytest.mark.parametrize("work", [1, 100, scan.WORK])
def test_the_scan_is_the_definition_for_every_length_and_step(monkeypatch, order, shared, states, softplus, work):
    monkeypatch.setattr(scan, "WORK", work)  # pieces of one token, of a few and a rest, and of the whole path
    form = ScanForm(order, skip=softplus, bias=softplus, softplus=softplus, one_state=states == 1, half=False)
    session = scan_session(form)
    draw = np.random.default_rng(0)
    for batch, length, groups, channels in ((2, 1, 2, 3), (2, 67, 2, 3), (1, 300, 4, 2)):

        def normal(*shape):
            return draw.standard_normal(shape).astype(np.float32)

        values = {
            "u": normal(batch, length, 1 if shared else groups, channels),
            "delta": normal(batch, length, groups, channels) * 30,  # steps from nothing to ones that no state outlives
            "A": -np.exp(normal(groups, channels, states)),
            "B": normal(batch, length, groups, states),
            "C": normal(batch, length, groups, states),
            "D": normal(groups, channels),
            "delta_bias": normal(groups, channels),
            "order": np.stack([draw.permutation(length) for _ in range(batch * groups)]).reshape(batch, groups, length),
        }
        if order == 2:
            values["order"] = values["order"][0]
        if not softplus:
            values["delta"] = np.abs(values["delta"])
        given = {name: values[name] for name in form.inputs}
        expected = oracle.selective_scan(**given, delta_softplus=softplus)
        found = session.run(None, given)[0]
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_small_steps_keep_their_digits():
    session = scan_session(ScanForm(2, skip=False, bias=False, softplus=True, one_state=True, half=False))
    raw = np.linspace(-30, 20, 101, dtype=np.float32)
    one = np.ones((101, 1, 1, 1), np.float32)
    # a path of one token with B = C = u = 1 yields the step itself
    given = {"u": one, "delta": raw.reshape(101, 1, 1, 1), "A": -np.ones((1, 1, 1), np.float32), "B": one, "C": one}
    found = session.run(None, {**given, "order": np.zeros((1, 1), np.int64)})[0].reshape(-1)
    np.testing.assert_allclose(found, np.log1p(np.exp(raw.astype(np.float64))), rtol=1e-6)


def test_float16_tokens_are_scanned_in_float32():
    session = scan_session(ScanForm(2, skip=False, bias=False, softplus=True, one_state=False, half=True))
    u, delta, B, C = (torch.randn(1, 500, 2, size).half() for size in (3, 3, 2, 2))
    A, order = -torch.rand(2, 3, 2) * 0.01, torch.stack([torch.randperm(500) for _ in range(2)])
    expected = selective_scan(u, delta, A, B, C, order=order)
    given = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "order": order}
    found = session.run(None, {name: value.numpy() for name, value in given.items()})[0]
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=2e-3, atol=1e-2)  # the result itself is float16


@pytest.mark.parametrize("name", ["eq c4", pytest.param("v2", marks=pytest.mark.slow)])
def test_a_float16_file_takes_and_gives_float16_and_leaves_the_network_in_training(tmp_path, name):
    network = moved(NETWORKS[name]).train()
    written = export_network(network, NETWORKS[name], tmp_path / "x.onnx", half=True)
    assert network.training
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    model = onnx.load(tmp_path / "x.onnx")
    half = onnx.TensorProto.FLOAT16
    assert [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)] == [half, half]
    assert 0 < max(written.differences.values()) < writing.TOLERANCE["float16"]
    assert OnnxNetwork(tmp_path / "x.onnx")(torch.rand(1, 3, 9, 8)).dtype == torch.float32


@pytest.mark.parametrize(("batch", "size"), [(2, 1), (1, 2), (2, 3), (3, 6), (2, 37), (1, 64)])
def test_eigenvectors_in_standard_operators_are_those_of_a_solver(batch, size):
    draw = np.random.default_rng(size)
    half = draw.standard_normal((batch, size, size))
    matrices, count = half + half.transpose(0, 2, 1), min(size, 5)
    inputs = "double[?,?,?] matrices, int64[1] count"
    session = function_session(spectral.FUNCTIONS[spectral.EIGENVECTORS], inputs, "double[?,?] values, double[?,?,?] vectors")
    values, vectors = session.run(None, {"matrices": matrices, "count": np.array([count])})
    expected, expected_vectors = np.linalg.eigh(matrices)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12 * size)
    overlap = np.einsum("bnk,bnk->bk", vectors, expected_vectors[..., :count])
    np.testing.assert_allclose(np.abs(overlap), 1, atol=1e-12)
    np.testing.assert_allclose(vectors, expected_vectors[..., :count] * np.sign(overlap)[:, None], atol=1e-10)


def test_equal_eigenvalues_have_orthonormal_eigenvectors():
    session = function_session(
        spectral.FUNCTIONS[spectral.EIGENVECTORS], "double[?,?,?] matrices, int64[1] count", "double[?,?] values, double[?,?,?] vectors"
    )
    blocks = np.kron(np.eye(3), np.ones((4, 4)))[None]  # three parts that are not connected: 0 nine times, 4 three times
    values, vectors = session.run(None, {"matrices": blocks, "count": np.array([12])})
    np.testing.assert_allclose(values[0], [0] * 9 + [4] * 3, atol=1e-14)
    np.testing.assert_allclose(vectors[0].T @ vectors[0], np.eye(12), atol=1e-14)
    np.testing.assert_allclose(blocks[0] @ vectors[0], vectors[0] * values[0], atol=1e-14)


@pytest.mark.slow
def test_an_exported_spectral_network_follows_torchs_order_and_gives_turned_pictures_the_same_logits(tmp_path):
    network = moved(_SPECTRAL)
    with torch.no_grad():  # so that the order of the tokens matters: first weights hardly hear the scans
        for name, parameter in network.named_parameters():
            if name.endswith(("proj.weight", "linear.weight", "head.weight")):
                parameter *= 10
    export_network(network, _SPECTRAL, tmp_path / "x.onnx")
    exported, image = OnnxNetwork(tmp_path / "x.onnx"), torch.rand(1, 3, 96, 96)
    give_the_same_numbers(exported, network)
    logits = exported(image)
    for turns in (1, 2, 3):
        torch.testing.assert_close(exported(image.rot90(turns, (-2, -1))), logits, rtol=0, atol=2e-5)
    with torch.inference_mode():
        by_rows = network(image, order=torch.arange(36)[None, :, None].expand(1, 36, 4))
    assert (by_rows - logits).abs().max() > 20 * writing.TOLERANCE["float32"]


@pytest.mark.parametrize(
    ("options", "name", "said"),
    [
        ({**_SPECTRAL, "mode": "released"}, "x.onnx", "torch's eigen-solver"),
        ({"type": "MambaIRv2Light", **_V2, "eval_routing": "gumbel"}, "x.onnx", "draws noise"),
        ({"type": "VMamba", **_PYRAMID, "num_classes": 0}, "x.onnx", "no head"),
        ({"type": "V2M", "img_size": 32, "patch_size": 8, "embed_dim": 8, "depth": 1, "layout": "released"}, "x.onnx", "square maps only"),
        ({"type": "MambaIR", **_LIGHT}, "x.pb", "written as .onnx"),
        ({"type": "MambaIR", **_LIGHT}, "missing/x.onnx", "no such folder"),
    ],
)
def test_what_is_not_exported_is_named(tmp_path, options, name, said):
    with pytest.raises(UserError, match=said):
        export_network(build_network(options).eval(), options, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def light_file(tmp_path_factory):
    """A network, its .onnx file, and beside it the weights that the command made it from."""
    folder = tmp_path_factory.mktemp("light")
    network = moved(NETWORKS["eq c4"])
    save_weights(folder / "x.safetensors", network.state_dict(), NETWORKS["eq c4"])
    export_onnx.main(["--weights", str(folder / "x.safetensors"), "-o", str(folder / "x.onnx")])
    return network, folder / "x.onnx"


def test_orders_that_float16_cannot_tell_are_not_exported_in_it(tmp_path):
    with pytest.raises(UserError, match="export it in float32"):
        export_network(build_network(_SPECTRAL).eval(), _SPECTRAL, tmp_path / "x.onnx", half=True)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_file_to_write(tmp_path):
    (tmp_path / "x.onnx").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        export_network(build_network(NETWORKS["eq c4"]).eval(), NETWORKS["eq c4"], tmp_path / "x.onnx")


def test_a_file_that_differs_is_not_written(light_file, monkeypatch):
    network, path = light_file
    before = path.read_bytes()
    monkeypatch.setitem(writing.TOLERANCE, "float32", 0.0)
    monkeypatch.setattr("eqmambair.export.graph.onnx_graph", lambda *_, **__: onnx.load(path))
    with pytest.raises(UserError, match=r"not written; at 48x48 it differs from torch by \d"):
        export_network(network, NETWORKS["eq c4"], path)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir() if each.suffix not in (".onnx", ".safetensors")] == []


def restored(tmp_path, name, *arguments):
    image = np.random.default_rng(0).integers(0, 256, (40, 52, 3)).astype(np.uint8)
    write_image(tmp_path / "in.png", image)
    assert inference.main([str(tmp_path / "in.png"), "-o", str(tmp_path / name), "--quiet", *map(str, arguments)]) == 0
    return read_image(tmp_path / name).astype(int)


@pytest.mark.parametrize("tiles", [(), ("--tile", 24)])
def test_inference_takes_an_onnx_file_and_gives_the_same_picture(tmp_path, light_file, tiles):
    path = light_file[1]
    by_torch = restored(tmp_path, "torch.png", "--weights", path.with_suffix(".safetensors"), *tiles)
    by_onnx = restored(tmp_path, "onnx.png", "--weights", path, *tiles)
    assert by_onnx.shape == (80, 104, 3)
    assert np.abs(by_onnx - by_torch).max() <= 1


@pytest.fixture(scope="module")
def classifier_file(tmp_path_factory):
    """A classifier, its .onnx file, and beside it the weights, with their card, that the command made it from."""
    folder = tmp_path_factory.mktemp("classifier")
    network, options = moved(NETWORKS["vmamba"]), NETWORKS["vmamba"]
    view = {"size": 40, "crop_pct": 0.8, "interpolation": "bilinear", "mean": [0.4] * 3, "std": [0.2] * 3}
    card = {"classes": ["apple", "bear", "cat", "dog", "eel"], "preprocessing": view}
    torch.save({"params": network.state_dict(), "network_g": options, "card": card}, folder / "x.pth")
    export_onnx.main(["--weights", str(folder / "x.pth"), "-o", str(folder / "x.onnx")])
    return network, folder / "x.onnx"


def test_an_exported_classifier_gives_torchs_numbers(classifier_file):
    network, path = classifier_file
    give_the_same_numbers(OnnxNetwork(path), network)


def test_classify_takes_an_onnx_file_with_the_names_and_the_view_of_its_card(tmp_path, classifier_file, capsys):
    path = classifier_file[1]
    for number in range(3):
        write_image(tmp_path / f"{number}.png", np.random.default_rng(number).integers(0, 256, (50, 60 + number, 3)).astype(np.uint8))
    reports = []
    for weights in (path, path.with_suffix(".pth")):
        assert classify.main([str(tmp_path), "--weights", str(weights), "--json", str(tmp_path / "x.json"), "--batch", "2"]) == 0
        reports.append(json.loads((tmp_path / "x.json").read_text()))
    by_onnx, by_torch = reports
    assert by_onnx["preprocessing"] == by_torch["preprocessing"]
    assert by_onnx["preprocessing"]["size"] == 40
    assert len(by_onnx["pictures"]) == 3
    for picture, guesses in by_torch["pictures"].items():
        found = by_onnx["pictures"][picture]
        assert [each["name"] for each in found] == [each["name"] for each in guesses]
        assert [each["probability"] for each in found] == pytest.approx([each["probability"] for each in guesses], abs=1e-5)
    assert "eel" in capsys.readouterr().out


def test_each_command_says_which_onnx_files_it_runs(tmp_path, light_file, classifier_file):
    write_image(tmp_path / "in.png", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(UserError, match="holds EQMambaIR, which classifies no pictures"):
        classify.main([str(tmp_path), "--weights", str(light_file[1])])
    with pytest.raises(UserError, match="holds VMamba, which restores no pictures"):
        inference.main([str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"), "--weights", str(classifier_file[1])])
    with pytest.raises(UserError, match="leave the option file and the parameter key out"):
        classify.main([str(tmp_path), "--weights", str(classifier_file[1]), "--param_key", "params"])
    with pytest.raises(UserError, match="here the weights are needed that it was made from"):
        export_onnx.main(["--weights", str(light_file[1]), "-o", str(tmp_path / "y.onnx")])
    assert [each.name for each in tmp_path.iterdir()] == ["in.png"]


@pytest.mark.parametrize("damage", ["half", "text", "another", "gone", "metadata", "precision"])
def test_files_that_cannot_restore_are_one_line(tmp_path, light_file, damage):
    content = light_file[1].read_bytes()
    path, more = tmp_path / "x.onnx", []
    if damage == "half":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        path.write_text("no model")
    elif damage != "gone":
        model = onnx.load_from_string(content)
        for entry in list(model.metadata_props):
            if damage == "another":
                model.metadata_props.remove(entry)
            elif damage == "metadata" and entry.key == "eqmambair.options":
                entry.value = entry.value[:9]
        more = ["--precision", "bf16"] if damage == "precision" else []
        path.write_bytes(model.SerializeToString())
    said = {
        "gone": "no such file",
        "another": "none of ours",
        "metadata": "eqmambair.options is no mapping",
        "precision": "leave --precision out",
    }
    with pytest.raises(UserError, match=said.get(damage, "no ONNX model that onnxruntime can read, or damaged")) as caught:
        restored(tmp_path, "out.png", "--weights", path, *more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("scale", "3", "it makes 16x18 of 8x9, not 3 times as much"),
        ("scale", "0", "eqmambair.scale is '0', not a whole number"),
        ("task", "painting", "eqmambair.task is 'painting'"),
        ("card", "[1]", "eqmambair.card is no mapping"),
        ("inputs", "", "its graph has other inputs and outputs than were written"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_one_line(tmp_path, light_file, key, value, said):
    model = onnx.load(light_file[1])
    onnx.helper.set_model_props(model, {each.key: each.value for each in model.metadata_props} | {f"eqmambair.{key}": value})
    if key == "inputs":
        model.graph.input.append(onnx.helper.make_tensor_value_info("another", onnx.TensorProto.FLOAT, [1]))
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(UserError, match=said) as caught:
        OnnxNetwork(tmp_path / "x.onnx")(torch.rand(1, 3, 8, 9))
    assert "\n" not in str(caught.value)


def test_wrong_channels_are_named(light_file):
    with pytest.raises(UserError, match="takes 3 channels, not 1"):
        OnnxNetwork(light_file[1])(torch.rand(1, 1, 8, 8))


def test_without_the_packages_one_line_says_what_to_install(tmp_path, light_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=re.escape("pip install 'eqmambair[onnx]'")):
        OnnxNetwork(light_file[1])
    monkeypatch.setitem(sys.modules, "eqmambair.export.graph", None)
    with pytest.raises(UserError, match=re.escape("pip install 'eqmambair[onnx]'")):
        export_network(light_file[0], NETWORKS["eq c4"], tmp_path / "x.onnx")

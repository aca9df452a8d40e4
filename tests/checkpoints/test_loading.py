"""Loading and saving weights: every layout, every wrapper, every kind of damage."""

import logging

import pytest
import torch
from safetensors.torch import save_file

from eqmambair import UserError, build_network, load_weights
from eqmambair.checkpoints import infer_network, load_network, read_state, save_weights, to_official

SMALL = {"embed_dim": 32, "depths": [2, 1], "d_state": 4, "mlp_ratio": 1.25}
NETWORKS = [
    {"type": kind, **SMALL, "upsampler": upsampler, "upscale": scale, "resi_connection": form, "in_chans": channels}
    for kind in ("MambaIR", "EQMambaIR")
    for upsampler, scale, form, channels in (
        ("pixelshuffledirect", 3, "1conv", 3),
        ("pixelshuffle", 2, "3conv", 3),
        ("pixelshuffle", 3, "1conv", 1),
        ("pixelshuffle", 8, "1conv", 3),
        ("", 1, "1conv", 1),
    )
] + [{"type": "MambaIRUNet", "dim": 32, "num_blocks": [2, 1, 1, 3], "num_refinement_blocks": 2, "mlp_ratio": 1.3}]


def identifier(options):
    return "-".join(str(options.get(key, "")) for key in ("type", "upsampler", "upscale", "resi_connection"))


def filled(options):
    network = build_network(options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    return network


@pytest.fixture
def network():
    return filled(NETWORKS[0])


@pytest.mark.parametrize("options", NETWORKS, ids=identifier)
def test_published_layout_and_back_is_the_same_network(options):
    source, target = filled(options), build_network(options)
    report = load_weights(target, to_official(source.state_dict()))
    assert report.layout == f"published {options['type']}"
    for key, value in source.state_dict().items():
        torch.testing.assert_close(target.state_dict()[key], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", NETWORKS, ids=identifier)
def test_shapes_tell_the_network(options):
    source = filled(options)
    for state in (source.state_dict(), to_official(source.state_dict())):
        inferred = build_network(infer_network(state))
        assert type(inferred) is type(source)
        load_weights(inferred, state)
        x = torch.rand(1, source.in_chans, 5, 6)
        with torch.no_grad():
            torch.testing.assert_close(inferred.eval()(x), source.eval()(x), rtol=1e-4, atol=1e-4, equal_nan=True)


def test_mirror_group_is_inferred_but_has_no_published_layout():
    source = build_network({"type": "EQMambaIR", "group": "d4", **SMALL})
    assert infer_network(source.state_dict())["group"] == "d4"
    with pytest.raises(UserError, match="8 elements"):
        to_official(source.state_dict())


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_file_alone_gives_the_network_back(tmp_path, network, suffix):
    path = tmp_path / f"weights{suffix}"
    save_weights(path, network.state_dict(), NETWORKS[0])
    loaded, options = load_network(path)
    assert options == NETWORKS[0]
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), network.parameters(), strict=True))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"params": s}, lambda s: {"params_ema": s, "params": {}}, lambda s: {"model": s, "epoch": 3}]
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_are_taken_off(network, wrap, prefix):
    target = build_network(NETWORKS[0])
    load_weights(target, wrap({prefix + key: value for key, value in network.state_dict().items()}))
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), network.parameters(), strict=True))


def test_averaged_weights_come_first_unless_a_key_is_named(tmp_path, network):
    path = tmp_path / "both.pth"
    raw = {key: value + 1 for key, value in network.state_dict().items()}
    torch.save({"params": raw, "params_ema": network.state_dict()}, path)
    assert torch.equal(read_state(path)[0]["lift.bias"], network.lift.bias)
    assert torch.equal(read_state(path, "params")[0]["lift.bias"], raw["lift.bias"])
    with pytest.raises(UserError, match="no entry 'param'"):
        read_state(path, "param")


def test_strict_loading_names_what_differs_and_changes_nothing(network):
    state = network.state_dict()
    state["lift.wieght"] = state.pop("lift.weight")
    state["lift.bias"] = torch.zeros(3)
    target = build_network(NETWORKS[0])
    before = [parameter.detach().clone() for parameter in target.parameters()]
    with pytest.raises(UserError) as error:
        load_weights(target, state)
    assert all(word in str(error.value) for word in ("lift.weight", "lift.wieght", "lift.bias: file (3,), network (32,)"))
    assert all(torch.equal(a, b) for a, b in zip(before, target.parameters(), strict=True))


def test_loading_another_scale_keeps_all_but_the_upsampler(network):
    target = build_network(NETWORKS[0] | {"upscale": 2})
    report = load_weights(target, network.state_dict(), strict=False)
    assert {line.split(":")[0] for line in report.mismatched} == {"head.conv.weight", "head.conv.bias"}
    assert torch.equal(target.lift.weight, network.lift.weight)


def test_weights_of_another_system_are_refused(network):
    with pytest.raises(UserError, match="EQMambaIR"):
        load_weights(build_network(NETWORKS[5]), to_official(network.state_dict()))
    with pytest.raises(UserError, match="nothing in it fits"):
        load_weights(network, {"a": torch.zeros(1)}, strict=False)
    with pytest.raises(UserError, match="no network that the toolbox knows"):
        infer_network({"a": torch.zeros(1)})


def test_stale_caches_of_published_files_are_ignored():
    source, target = filled(NETWORKS[5]), build_network(NETWORKS[5])
    published = to_official(source.state_dict())
    published["eqconv_first.filter"] = torch.full((32, 3, 3, 3), 9.0)
    published["eqconv_first.bias"] = torch.full((1, 32, 1, 1), 9.0)
    assert load_weights(target, published).complete
    published["eqconv_first.else"] = torch.zeros(1)
    assert load_weights(target, published).complete  # beside a Basis only weights and c are read
    published["norm.filter"] = torch.zeros(1)
    with pytest.raises(UserError, match=r"norm_out\.filter"):
        load_weights(target, published)


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_files_with_code_or_damage_are_refused_by_name(tmp_path, network, capsys):
    code = tmp_path / "code.pth"
    torch.save({"params": network.state_dict(), "hook": Evil()}, code)
    empty, text, missing = tmp_path / "empty.pth", tmp_path / "text.safetensors", tmp_path / "missing.pth"
    empty.write_bytes(b"")
    text.write_text("no weights")
    good = tmp_path / "good.pth"
    torch.save(network.state_dict(), good)
    cut, page, old, old_cut = (tmp_path / f"{name}.pth" for name in ("cut", "page", "old", "old_cut"))
    cut.write_bytes(good.read_bytes()[:-1000])
    page.write_text("<!DOCTYPE html><title>404</title>")
    torch.save(network.state_dict(), old, _use_new_zipfile_serialization=False)
    old_cut.write_bytes(old.read_bytes()[:300])
    tensor, nested = tmp_path / "tensor.pth", tmp_path / "nested.pth"
    torch.save(torch.zeros(3), tensor)
    torch.save({"params": {"a": 3}}, nested)
    for path, message in (
        (code, r"refused.*\(__builtin__\.print\)"), (empty, "it is empty"), (text, "cannot be read"), (missing, "no such"),
        (cut, "cut off"), (page, "damaged, or of another kind"), (old_cut, "damaged, or of another kind"),
        (tensor, "not a state dict"), (nested, "not a tensor"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message) as error:
            read_state(path)
        assert path.name in str(error.value)
        assert "\n" not in str(error.value)
    assert "code ran" not in capsys.readouterr().out


def test_damaged_contents_are_one_line(tmp_path, network):
    path = tmp_path / "w.pth"
    for content in (b"\x80\x02." * 5, b"\x80\x04}."):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"w\.pth"):
            load_network(path)
    for drop in ("lift", "groups.0.blocks.0", "head"):
        state = {key: value for key, value in network.state_dict().items() if not key.startswith(drop)}
        torch.save(state, path)
        with pytest.raises(UserError):
            load_network(path)
    flat = {key: value.flatten()[:0] for key, value in network.state_dict().items()}
    torch.save(flat, path)
    with pytest.raises(UserError):
        load_network(path)
    safe = tmp_path / "w.safetensors"
    save_file(network.state_dict(), safe, metadata={"network_g": "[1]"})
    with pytest.raises(UserError, match="not a mapping"):
        read_state(safe)


@pytest.mark.parametrize("options", [NETWORKS[0], NETWORKS[1], NETWORKS[5]], ids=identifier)
def test_incomplete_published_file_names_only_what_is_missing(options):
    network = filled(options)
    published = to_official(network.state_dict())
    for key in list(published)[-2:]:
        del published[key]
    report = load_weights(build_network(options), published, strict=False)
    assert 1 <= len(report.missing) <= 2
    assert not report.unexpected


def test_saving_where_nothing_can_be_written_is_refused(tmp_path, network):
    with pytest.raises(UserError, match="no such folder"):
        save_weights(tmp_path / "nowhere" / "w.pth", network.state_dict())
    with pytest.raises(UserError, match="are written as"):
        save_weights(tmp_path / "w.bin", network.state_dict())


def test_averages_that_a_file_lacks_are_its_params_with_a_warning(tmp_path, caplog):
    file = tmp_path / "published.pth"
    torch.save({"params": {"w": torch.ones(2)}}, file)
    with caplog.at_level(logging.WARNING, "eqmambair"):
        state, _ = read_state(file, "params_ema")
    assert torch.equal(state["w"], torch.ones(2))
    assert "no averaged weights" in caplog.text
    with pytest.raises(UserError, match="no entry 'params_emma'"):
        read_state(file, "params_emma")

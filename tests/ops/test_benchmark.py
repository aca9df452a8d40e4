"""The benchmark of the scan: what it compares computes the same, and its file says what its table says."""

import json

import pytest
import torch

from eqmambair.cli import _benchmark_models, _scans, benchmark


@pytest.mark.parametrize("name", sorted(set(_scans.contenders("cpu")) - {"operator"}))
def test_contenders_compute_the_same(name) -> None:
    arguments = benchmark.draw((2, 48, 4, 6, 3), torch.float32, "cpu")
    leaves = [x.requires_grad_() if x.is_floating_point() else x for x in arguments]
    expected, got = _scans.operator(leaves), _scans.contenders("cpu")[name](leaves)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(y.square().sum(), leaves[:7]) for y in (got, expected)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def test_file_holds_a_row_for_every_shape_and_contender(tmp_path, capsys) -> None:
    file = tmp_path / "made" / "scan.json"
    shapes = ["--shape", "1,20,2,3,2", "--shape", "1,9,1,3,1"]
    assert benchmark.main(["scan", "--device", "cpu", "--quick", "--seconds", "0.01", "--json", str(file), *shapes]) == 0
    measured = json.loads(file.read_text())
    assert len(measured["results"]) == 2 * len(_scans.contenders("cpu"))
    for row in measured["results"]:
        assert row["forward"]["runs"] >= 3
        assert row["forward_backward"]["median_ms"] >= row["forward_backward"]["min_ms"] > 0
    table = capsys.readouterr().out
    assert all(name in table for name in _scans.contenders("cpu"))


def test_what_needs_too_much_memory_is_left_out_and_named(tmp_path, capsys) -> None:
    file = tmp_path / "scan.json"
    benchmark.main(
        ["scan", "--device", "cpu", "--quick", "--seconds", "0.01", "--limit_gib", "0", "--shape", "1,9,1,3,1", "--json", str(file)]
    )
    names = {row["name"] for row in json.loads(file.read_text())["results"]}
    assert names == {"operator", "plain backend"}
    assert "needs more than --limit_gib" in capsys.readouterr().out


@pytest.mark.parametrize("mode", [[], ["--train"]], ids=["inference", "training"])
def test_networks_take_turns_and_the_file_holds_each(tmp_path, mode) -> None:
    file, picture = tmp_path / "models.json", tmp_path / "models.png"
    names = ["eq_mambair_small", "mambair_small"]
    settings = ["--sizes", "12", "16", "--rounds", "2", "--threads", "1", "--device", "cpu", "--json", str(file), "--plot", str(picture)]
    assert benchmark.main(["models", "--networks", *names, *settings, *mode]) == 0
    rows = json.loads(file.read_text())["results"]
    assert [(row["network"], row["size"]) for row in rows] == [(name, size) for size in (12, 16) for name in names]
    assert all(row["median_seconds"] >= row["min_seconds"] > 0 and row["runs"] == 2 for row in rows)
    assert picture.stat().st_size > 1000


def test_network_with_a_step_for_each_token_is_the_same(monkeypatch) -> None:
    network, x = _benchmark_models._build("eq_mambair_small").eval(), torch.rand(1, 3, 12, 9)
    expected = network(x)
    steps = []
    monkeypatch.setenv("EQMAMBAIR_BACKEND", "")
    monkeypatch.setattr(_benchmark_models.scan2d, "selective_scan", None)
    monkeypatch.setattr(_benchmark_models, "token_loop", lambda arguments: steps.append(arguments) or _scans.token_loop(arguments))
    _benchmark_models._loop_over_tokens()
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)
    assert len(steps) == 4


@pytest.mark.parametrize(("option", "value"), [("--sizes", "0"), ("--rounds", "0"), ("--threads", "-1"), ("--sizes", "big")])
def test_impossible_counts_are_refused_before_anything_runs(capsys, option, value) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["models", f"{option}={value}"])
    assert ended.value.code == 2
    assert f"argument {option}: '{value}' is no whole number from 1 on" in capsys.readouterr().err

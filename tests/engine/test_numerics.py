"""What one step computes: accumulation, clipping, precision, averaging, and nothing that is not finite."""

import copy
import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eqmambair.engine.averaging import MovingAverage
from eqmambair.engine.distributed import Ranks
from eqmambair.engine.loop import RunMode, Trainer
from eqmambair.engine.options import load_options
from eqmambair.engine.schedule_free import AdamWScheduleFree
from eqmambair.errors import UserError
from tests.engine.running import differences, figures, run_here, state
from tests.engine.tiny import make_pictures, write_options

PLAIN = {"network_g__dropout": 0.0, "network_g__batch_norm": False, "val": ..., "datasets__val": ...}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    make_pictures(tmp_path / "gt", count=6)
    return tmp_path


def weights(folder: Path, step: int = 10) -> dict[str, torch.Tensor]:
    return state(folder, step)["net_g.pth"]["params"]


def test_accumulation_equals_the_large_batch(pictures: Path) -> None:
    small = {**PLAIN, "datasets__train__batch_size_per_gpu": 2, "train__accumulate": 3}
    run_here(write_options(pictures, name="small", **small))
    run_here(write_options(pictures, name="large", **PLAIN, datasets__train__batch_size_per_gpu=6))
    experiments = pictures / "experiments"
    torch.testing.assert_close(weights(experiments / "small"), weights(experiments / "large"), rtol=1e-4, atol=1e-6)  # other order of sums


def test_steps_are_exactly_total_iter_for_any_batch(pictures: Path) -> None:
    for batch in (1, 4, 7, 20):
        run_here(write_options(pictures, name=f"b{batch}", **PLAIN, datasets__train__batch_size_per_gpu=batch, train__total_iter=7))
        steps = [line["step"] for line in figures(pictures / "experiments" / f"b{batch}")]
        assert steps == list(range(1, 8))


def test_gradient_norm_is_logged_before_it_is_clipped(pictures: Path) -> None:
    sgd = {"train__optim_g": {"type": "SGD", "lr": 1.0}, "train__scheduler": {"type": "Constant"}, "train__total_iter": 1}
    run_here(write_options(pictures, name="plain", **PLAIN, **sgd))
    run_here(write_options(pictures, name="clipped", **PLAIN, **sgd, train__grad_clip=0.01))
    plain, clipped = (figures(pictures / "experiments" / name)[0]["grad_norm"] for name in ("plain", "clipped"))
    assert plain == clipped > 0.01
    options, _ = load_options(write_options(pictures, **PLAIN, **sgd, train__grad_clip=0.01))
    trainer = Trainer(options, Ranks(), RunMode(dry=True))
    before = copy.deepcopy(trainer.model.network)
    trainer.run()
    moved = [now - then for now, then in zip(trainer.model.network.parameters(), before.parameters(), strict=True)]
    assert float(torch.cat([each.detach().flatten() for each in moved]).norm()) <= 2 * 0.01 + 1e-6  # two steps of a dry run


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_nearly_as_full(pictures: Path, precision: str) -> None:
    run_here(write_options(pictures, name="full", **PLAIN))
    run_here(write_options(pictures, name="half", **PLAIN, train__precision=precision))
    full, half = (figures(pictures / "experiments" / name) for name in ("full", "half"))
    assert full != half
    for mine, theirs in zip(half, full, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.02)  # bf16 has 8 bits
    assert all(value.dtype == torch.float32 for value in weights(pictures / "experiments" / "half").values())


def test_scaler_is_saved(pictures: Path) -> None:
    run_here(write_options(pictures, train__precision="fp16"))
    assert state(pictures / "experiments" / "tiny", 10)["state.pt"]["scaler"]["scale"] > 0


def test_two_deterministic_runs_are_equal(pictures: Path) -> None:
    try:
        for name in ("one", "two"):
            run_here(write_options(pictures, name=name, deterministic=True))
    finally:
        torch.use_deterministic_algorithms(False)
    experiments = pictures / "experiments"
    assert differences(weights(experiments / "one"), weights(experiments / "two")) == []
    assert figures(experiments / "one") == figures(experiments / "two")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_non_finite_steps_are_left_out_and_named(pictures: Path, precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    loss = {"type": "SometimesNaN", "bad": [3, 4]}
    assert run_here(write_options(pictures, train__pixel_opt=loss, train__precision=precision)) == 0
    printed = capsys.readouterr().out
    assert "step 3 left out: not finite (loss nan" in printed
    assert "picture_0" in printed
    assert "2 steps were left out" in printed
    folder = pictures / "experiments" / "tiny"
    dumped = json.loads((folder / "nonfinite" / "step_00000003_rank0.json").read_text())
    assert len(dumped["samples"]) == 2
    content = state(folder, 10)["net_g.pth"]
    for key in ("params", "params_ema"):
        assert all(bool(torch.isfinite(value).all()) for value in content[key].values())


def test_left_out_step_changes_nothing(pictures: Path) -> None:
    options, _ = load_options(write_options(pictures, train__pixel_opt={"type": "SometimesNaN", "bad": [1, 2]}))
    trainer = Trainer(options, Ranks(), RunMode(dry=True))
    network, average = copy.deepcopy(trainer.model.network.state_dict()), copy.deepcopy(trainer.stepper.average)
    trainer.run()
    assert average is not None
    now = trainer.model.network.state_dict()
    assert [key for key in network if not torch.equal(network[key], now[key]) and "num_batches" not in key] == []
    assert trainer.stepper.average is not None
    assert differences(dict(average.network.state_dict()), dict(trainer.stepper.average.network.state_dict())) == []


def test_too_many_non_finite_steps_end_the_run(pictures: Path) -> None:
    loss = {"type": "SometimesNaN", "bad": [2, 3, 4, 6]}
    with pytest.raises(UserError, match="step 6: loss or gradient is not finite for the 4th time"):
        run_here(write_options(pictures, train__pixel_opt=loss, train__nonfinite_limit=3))
    states = pictures / "experiments" / "tiny" / "training_states"
    assert [each.name for each in states.iterdir()] == ["step_00000005"]


def test_average_follows_its_formula_and_takes_buffers_along() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    average = MovingAverage(network, 0.9)
    start = network[0].weight.detach().clone()
    network(torch.randn(4, 1, 3, 3))
    with torch.no_grad():
        network[0].weight.add_(1)
    average.update(network)
    torch.testing.assert_close(average.network[0].weight, start + 0.1)
    torch.testing.assert_close(average.network[1].running_mean, 0.1 * network[1].running_mean)
    assert int(average.network[1].num_batches_tracked) == 1


def test_validation_leaves_the_network_in_training_mode(pictures: Path) -> None:
    options, _ = load_options(write_options(pictures, train__ema_decay=0.0))
    trainer = Trainer(options, Ranks(), RunMode(dry=True))
    trainer.model.network.train()
    trainer.measure(bar=False)
    assert trainer.model.network.training


def test_schedule_free_finds_the_minimum_and_looking_changes_nothing() -> None:
    parameter = nn.Parameter(torch.tensor([4.0, -3.0]))
    optimizer = AdamWScheduleFree([parameter], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        ((parameter - torch.tensor([1.0, 2.0])) ** 2).sum().backward()
        optimizer.step()
    before = parameter.detach().clone()
    with optimizer.averaged():
        averaged = parameter.detach().clone()
    assert torch.equal(parameter, before)
    torch.testing.assert_close(averaged, torch.tensor([1.0, 2.0]), rtol=0, atol=0.05)


def test_schedule_free_average_is_the_mean_of_the_z() -> None:
    """Source: the paper's equations with equal weights, written out for one number and plain SGD-like updates."""
    parameter = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = AdamWScheduleFree([parameter], lr=0.1, betas=(0.9, 0.0), eps=0.0)
    z, x, seen = 1.0, 1.0, []
    for step in range(5):
        y = 0.1 * z + 0.9 * x
        assert float(parameter.detach()) == pytest.approx(y)
        parameter.grad = torch.tensor([3.0 if step % 2 else 2.0], dtype=torch.float64)
        optimizer.step()
        z -= 0.1  # the gradient over its own root mean square is 1
        seen.append(z)
        x = math.fsum(seen) / len(seen)
    with optimizer.averaged():
        assert float(parameter.detach()) == pytest.approx(x)


@pytest.mark.parametrize("changes", [{"network_g__in_chans": 1}, {"datasets__train__color": "gray"}])
def test_data_that_do_not_fit_the_network_end_in_one_line(pictures: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        run_here(write_options(pictures, **changes))
    assert "channels" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dry_run_writes_nothing(pictures: Path) -> None:
    assert run_here(write_options(pictures), dry=True) == 0
    assert not (pictures / "experiments").exists()


def test_compiled_network_trains_and_saves_plain_keys(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))  # the same wrapper without a minute of C++
    run_here(write_options(pictures, train__compile=True, train__total_iter=5))
    assert "body.0.weight" in weights(pictures / "experiments" / "tiny", 5)

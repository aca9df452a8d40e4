"""Learning rates by hand."""

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from eqmambair.engine.schedule import CosineRestart, CosineRestartCyclic, Linear, MultiStep, Poly, WarmupCosine, WarmupPoly, warmup


def test_multistep_halves_after_each_milestone() -> None:
    schedule = MultiStep([4, 8], gamma=0.5)
    assert [schedule(step, 1.0) for step in (0, 3, 4, 7, 8, 100)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_multistep_restart_begins_anew() -> None:
    schedule = MultiStep([2, 6], gamma=0.1, restarts=[0, 4], restart_weights=[1.0, 0.5])
    assert [schedule(step, 1.0) for step in (0, 2, 4, 6)] == pytest.approx([1, 0.1, 0.5, 0.05])


def test_cosine_goes_from_the_rate_to_the_floor_and_stays_there() -> None:
    schedule = CosineRestart([10, 10], [1.0, 0.5], eta_min=0.1)
    assert schedule(0, 1.0) == 1.0
    assert schedule(5, 1.0) == pytest.approx(0.55)
    assert schedule(10, 1.0) == pytest.approx(0.55)  # half the way above the floor
    assert schedule(19, 1.0) > 0.1
    assert schedule(20, 1.0) == schedule(10**6, 1.0) == 0.1


def test_cyclic_cosine_has_a_floor_for_each_period() -> None:
    schedule = CosineRestartCyclic([92, 208], [1.0, 1.0], [3e-4, 1e-6])  # Restormer: constant, then one cosine
    assert {schedule(step, 3e-4) for step in range(92)} == {3e-4}
    assert schedule(92, 3e-4) == pytest.approx(3e-4)
    assert schedule(299, 3e-4) < 1.2e-6


def test_linear_and_poly_end_at_their_floors() -> None:
    assert Linear(10, end=0.5)(10, 1.0) == 0.5
    assert Poly(10, power=0.9, eta_min=0.01)(10, 1.0) == 0.01
    assert Poly(10)(5, 1.0) == 0.5


def test_warmup_cosine_is_timms_with_the_warmup_in_front() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    timms = CosineLRScheduler(optimizer, t_initial=28, lr_min=1e-5, warmup_t=3, warmup_lr_init=1e-6, warmup_prefix=True, t_in_epochs=False)
    ours = WarmupCosine(31, 3, 1e-6, 1e-5)
    for step in range(40):
        timms.step_update(step)
        assert ours(step, 1e-3) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12), step


def test_warmup_poly_rises_to_the_base_rate_and_falls_to_nothing() -> None:
    schedule = WarmupPoly(160, 15, 1e-6)
    assert schedule(0, 6e-5) == pytest.approx(6e-11)
    assert schedule(15, 6e-5) == 6e-5
    assert schedule(160, 6e-5) == 0


def test_warmup_multiplies_and_ends_at_one() -> None:
    assert [warmup(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warmup(0, -1) == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MultiStep([3, 3]), "must increase"),
        (lambda: MultiStep([0]), "at least 1"),
        (lambda: MultiStep([1], restarts=[0, 2]), "equally long"),
        (lambda: CosineRestart([]), "must be positive"),
        (lambda: Linear(0), "must be positive"),
        (lambda: WarmupCosine(10, 10), "warmup_iter must lie in"),
    ],
)
def test_impossible_schedules_are_refused(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()

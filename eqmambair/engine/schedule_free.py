"""AdamW that needs no schedule: the averaged iterate is what one uses. Source: Defazio et al., The Road Less Scheduled, 2024.

The parameters hold y, at which gradients are taken. The average x, which is evaluated and published, follows from y and z when it is
wanted: ``averaged()`` lends it for a while and puts the very same y back, bit for bit, so that looking changes nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class AdamWScheduleFree(torch.optim.Optimizer):
    """Schedule-free AdamW.

    Args:
        lr: rate, > 0.
        betas: interpolation of y between z and x, and decay of the squared gradients.
        weight_decay: decoupled, applied at y.
        r: power of the step in the weights of the average.
        weight_lr_power: power of the largest rate so far in them, so that steps of the warm-up weigh less.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
    ) -> None:
        if lr <= 0:
            raise ValueError(f"lr must be positive, found {lr}")
        if not (0 < betas[0] < 1 and 0 <= betas[1] < 1):
            raise ValueError(f"betas must lie in (0, 1), found {betas}")
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "r": r, "weight_lr_power": weight_lr_power}
        super().__init__(params, {**defaults, "k": 0, "lr_max": 0.0, "weight_sum": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step from the gradients at y."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            count = group["k"] + 1
            lr = group["lr"]
            group["lr_max"] = max(group["lr_max"], lr)
            weight = count ** group["r"] * group["lr_max"] ** group["weight_lr_power"]
            group["weight_sum"] += weight
            share = weight / group["weight_sum"] if group["weight_sum"] > 0 else 0.0
            correction = 1 - beta2**count
            for y in group["params"]:
                if y.grad is None:
                    continue
                state = self.state[y]
                if not state:
                    state["z"] = y.detach().clone(memory_format=torch.preserve_format)
                    state["exp_avg_sq"] = torch.zeros_like(y, memory_format=torch.preserve_format)
                z, squares = state["z"], state["exp_avg_sq"]
                squares.mul_(beta2).addcmul_(y.grad, y.grad, value=1 - beta2)
                update = y.grad / (squares / correction).sqrt_().add_(group["eps"])
                if group["weight_decay"]:
                    update.add_(y, alpha=group["weight_decay"])
                y.lerp_(z, share)
                y.add_(update, alpha=lr * (beta1 * (1 - share) - 1))
                z.sub_(update, alpha=lr)
            group["k"] = count
        return loss

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the parameters hold the average x; afterwards exactly what they held before."""
        kept = [(p, p.detach().clone(memory_format=torch.preserve_format)) for group in self.param_groups for p in group["params"]]
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p in self.state and "z" in self.state[p]:
                        p.lerp_(self.state[p]["z"], 1 - 1 / group["betas"][0])
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in kept:
                    p.copy_(value)

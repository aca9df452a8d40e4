"""The attentive state-space module of MambaIRv2: one causal scan over pixels sorted by a learned category, with a prompt for each category.

Source: MambaIRv2 (arXiv 2411.15269), section 3, and its published code, which decides where the two disagree: the router has two layers,
the positional encoding is a gate behind the first projection, and both factors of the prompt pool belong to the block.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.layers.depthwise import DepthwiseConv2d
from eqmambair.layers.linear import small_linear
from eqmambair.layers.scan2d import initial_A_log, initial_delta_bias
from eqmambair.layers.views import positive_width, to_pixels, to_tokens
from eqmambair.ops import selective_scan

PromptOrder = Literal["raster", "sorted"]
Routing = Literal["argmax", "gumbel"]


class PromptRouter(nn.Module):
    """Give every token a category and the category's prompt, a row of a learned pool of low rank.

    The category is the largest of the router's scores, after Gumbel noise where the routing is ``gumbel``; the prompt is looked up. The
    gradient is the straight-through estimator's: that of the softmax mixture of all prompts. It equals the published one, whose scores are
    normalised logarithms, because a constant added to all scores changes neither. Computed in float32 whatever the type of the input.

    Args:
        channels: width of the tokens.
        categories: prompts in the pool, T.
        states: length of a prompt, N.
        inner_rank: rank of the pool.
        train_routing, eval_routing: ``argmax`` or ``gumbel``, in training and in evaluation. The noise comes from the device's generator.

    Attributes:
        given_noise: what to add to the scores instead, (b, l, T); None is what the routing says. For tests and attribution.
        straight_through: whether the scores get a gradient at all; without it the derivative is the true one, almost everywhere.

    Raises:
        ValueError: for another routing, or fewer than 3 channels.
    """

    def __init__(
        self,
        channels: int,
        categories: int,
        states: int,
        inner_rank: int,
        train_routing: Routing = "gumbel",
        eval_routing: Routing = "argmax",
    ) -> None:
        super().__init__()
        for name, routing in (("train_routing", train_routing), ("eval_routing", eval_routing)):
            if routing not in get_args(Routing):
                raise ValueError(f"{name}: {routing!r} is not known; choose 'argmax' or 'gumbel'")
        hidden = positive_width(channels // 3, name="the router", rule="a third of embed_dim")
        self.train_routing, self.eval_routing = train_routing, eval_routing
        self.given_noise: Tensor | None = None
        self.straight_through = True
        self.hidden = small_linear(channels, hidden)
        self.scores = small_linear(hidden, categories)
        self.prompts = nn.Parameter(torch.empty(categories, inner_rank).uniform_(-1 / categories, 1 / categories))
        self.basis = nn.Parameter(torch.empty(inner_rank, states).uniform_(-1 / inner_rank, 1 / inner_rank))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(b, l, c) -> prompts (b, l, n) in float32 or wider, categories (b, l) in int64."""
        wide = torch.promote_types(tokens.dtype, torch.float32)
        with _without_autocast(tokens.device.type):
            hidden = F.gelu(F.linear(tokens.to(wide), self.hidden.weight.to(wide), self.hidden.bias.to(wide)))
            scores = self._with_noise(F.linear(hidden, self.scores.weight.to(wide), self.scores.bias.to(wide)))
            category = scores.argmax(-1)
            pool = self.prompts.to(wide) @ self.basis.to(wide)
            prompts = F.embedding(category, pool)
            if self.straight_through and torch.is_grad_enabled() and scores.requires_grad:
                mixture = scores.softmax(-1) @ pool.detach()
                prompts = prompts + (mixture - mixture.detach())  # adds zero, exactly
        return prompts, category

    def _with_noise(self, scores: Tensor) -> Tensor:
        if self.given_noise is not None:
            return scores + self.given_noise
        if (self.train_routing if self.training else self.eval_routing) == "argmax":
            return scores
        return scores - torch.empty_like(scores).exponential_().log()

    def extra_repr(self) -> str:
        return f"train_routing={self.train_routing}, eval_routing={self.eval_routing}"


def _without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Full precision inside; some devices (``meta``) know no other."""
    return torch.autocast(device_type, enabled=False) if torch.amp.is_autocast_available(device_type) else nullcontext()


def semantic_order(category: Tensor) -> Tensor:
    """The tokens by category, those of one category by rows: the path of semantic-guided neighbouring, (b, l) -> (b, l), int64."""
    return category.argsort(dim=-1, stable=True)


def inverse_order(order: Tensor) -> Tensor:
    """The step at which each token is visited, (..., l) -> (..., l): ``order.gather(-1, inverse)`` is 0, 1, ..., l-1."""
    steps = torch.arange(order.shape[-1], device=order.device, dtype=order.dtype).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, steps)


class AttentiveScan2d(nn.Module):
    """One selective scan along the semantic order, whose output maps are shifted by prompts; (b, c_in, h, w) to (b, c, h, w).

    Nothing is sorted but numbers of tokens: the scan reads and writes each token in its place.

    Args:
        router: categories and prompts; its input is the module's.
        channels_in, inner, channels: widths before, in and after the scan.
        states: state size N of the recurrence.
        rank: width of the low-rank path to the steps.
        prompt_order: ``raster`` adds the prompt of token i (by rows) at step i of the path, as the published code does and its weights
            need; ``sorted`` adds each token's own prompt, which is what the paper describes.

    Raises:
        ValueError: for another prompt order.
    """

    def __init__(
        self,
        router: PromptRouter,
        channels_in: int,
        inner: int,
        channels: int,
        states: int,
        rank: int,
        prompt_order: PromptOrder = "raster",
    ) -> None:
        super().__init__()
        if prompt_order not in get_args(PromptOrder):
            raise ValueError(f"prompt_order: {prompt_order!r} is not known; choose 'raster' or 'sorted'")
        self.prompt_order, self.rank, self.states = prompt_order, rank, states
        self.router = router
        self.in_proj = nn.Linear(channels_in, inner)
        self.position = DepthwiseConv2d(inner, inner)
        self.x_proj = nn.Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, inner, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        self.delta_bias = nn.Parameter(initial_delta_bias(inner))
        self.A_log = nn.Parameter(initial_A_log(inner, states))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = small_linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        tokens = to_tokens(x)
        prompts, category = self.router(tokens)
        order = semantic_order(category)
        if self.prompt_order == "raster":
            prompts = prompts.gather(1, inverse_order(order).unsqueeze(-1).expand_as(prompts))
        features = to_pixels(self.in_proj(tokens), height, width)
        u = to_tokens(features * self.position(features).sigmoid()).unsqueeze(2)  # (b, l, 1, d)
        low_rank, B, C = self.x_proj(u).split([self.rank, self.states, self.states], dim=-1)
        C = C + prompts.unsqueeze(2).to(C.dtype)
        y = selective_scan(
            u, self.dt_proj(low_rank), -self.A_log.exp()[None], B, C, self.D[None], self.delta_bias[None], order.unsqueeze(1)
        )  # fmt: skip
        return to_pixels(self.out_proj(self.out_norm(y.squeeze(2))), height, width)

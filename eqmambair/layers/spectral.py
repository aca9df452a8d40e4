"""Visiting orders from the spectrum of a graph of tokens, and what keeps them right from stage to stage.

Tokens that look alike are neighbours in a graph; the eigenvectors of its Laplacian vary smoothly over it, and tokens are visited in the
order of their values. A turned picture has the same graph with other numbers on its nodes, so the path follows the picture. All this is
without gradient and in float64. Source: Spectral VMamba (Dutta et al., CVPR 2025, arXiv 2503.06369) and its published code.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from eqmambair.layers.norm import ChannelLayerNorm
from eqmambair.ops.spectral import smallest_eigenvectors


def similarity_graph(features: Tensor, neighbours: int, sigma: Literal["image", "batch"] = "image", floor: float = 0.0) -> Tensor:
    """Weights between tokens: Gaussian in their distance, and kept where one is among the other's nearest.

    Args:
        features: (b, n, d).
        neighbours: how many tokens count as nearest, the token itself included; at most n.
        sigma: the width of the Gaussian is the mean distance of all pairs of an image, or of all images of the batch (as published, so that
            an image's graph depends on its companions).
        floor: least weight of a pair that is dropped, as a part of its Gaussian weight; above 0 the graph is connected.

    Returns:
        Symmetric weights in [0, 1] with diagonal 1, (b, n, n), float64.
    """
    x = features.double()
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")  # the same bits for a pair whatever its place
    width = distances.mean((1, 2), keepdim=True) if sigma == "image" else distances.mean()
    weights = torch.exp(-distances.square() / (2 * width.square()).clamp(min=torch.finfo(x.dtype).tiny))
    nearest = torch.zeros_like(weights).scatter_(2, weights.topk(neighbours, dim=2).indices, 1.0)
    kept = torch.maximum(nearest, nearest.mT)
    return torch.maximum(weights * kept, floor * weights) if floor else weights * kept


def laplacian(weights: Tensor) -> Tensor:
    """The symmetric normalised Laplacian ``I - D^-1/2 A D^-1/2`` of a graph, (b, n, n): eigenvalues in [0, 2], the first one 0."""
    scale = weights.sum(-1).rsqrt()
    return torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device) - scale[..., None] * weights * scale[..., None, :]


def with_signs(vectors: Tensor, rule: Literal["vector", "token"]) -> Tensor:
    """Eigenvectors (b, n, m) whose signs do not depend on the solver.

    Args:
        vectors: as a solver left them.
        rule: ``vector`` gives each vector the sign that makes its mean positive (where the mean is below 1e-6, the sum of its cubes);
            ``token`` is the published slip: each token's values are multiplied by the sign of their mean over the vectors, which still
            depends on the solver.
    """
    if rule == "token":
        return vectors * vectors.mean(2, keepdim=True).sign()
    mean, cubes = vectors.mean(1, keepdim=True), vectors.pow(3).sum(1, keepdim=True)
    sign = torch.where(mean.abs() > 1e-6, mean, cubes).sign()
    return vectors * torch.where(sign == 0, torch.ones_like(sign), sign)


def visiting_order(values: Tensor) -> Tensor:
    """The token visited at each step, (b, 2m, h*w), from a value for each token, (b, m, h, w): m paths upwards, then the same backwards."""
    upwards = values.flatten(2).argsort(dim=-1, stable=True)
    return torch.cat([upwards, upwards.flip(-1)], dim=1)


def values_of_order(order: Tensor, height: int, width: int) -> Tensor:
    """Values whose ascending order is the given one: (b, m, h*w) -> (b, m, h, w), the step at which each token is visited."""
    return order.argsort(dim=-1).unflatten(2, (height, width)).float()


def kept_positions(x: Tensor) -> Tensor:
    """Even rows and columns, (b, c, h, w) -> (b, c, ceil(h/2), ceil(w/2)): the published reduction, which no turn of an even side keeps."""
    return x[..., ::2, ::2]


def turned_alike(x: Tensor) -> Tensor:
    """Half of each side so that turns are kept: means of pairs along an even side, every second line, ends included, along an odd one."""
    return _halved(_halved(x, 2), 3)


def _halved(x: Tensor, dim: int) -> Tensor:
    """Means of lines 2i and 2i + 1 of an even axis, lines 2i of an odd one; no condition, so that export frees sizes."""
    side = x.shape[dim]
    first = torch.arange((side + 1) // 2, device=x.device) * 2
    return (x.index_select(dim, first) + x.index_select(dim, first + (1 - side % 2))) / 2


class SpectralOrder(nn.Module):
    """A value for each token and eigenvector, by which the tokens are visited.

    Args:
        vectors: eigenvectors that are used, m; the first one, of eigenvalue 0, is not counted.
        neighbours: tokens that are linked in the graph, the token itself included.
        released: the published rules (`sigma` over the batch, signs by token) instead of those that keep turns.
        floor: see `similarity_graph`.
    """

    def __init__(self, vectors: int, neighbours: int, released: bool, floor: float = 0.0) -> None:
        super().__init__()
        self.vectors, self.neighbours, self.released, self.floor = vectors, neighbours, released, floor

    def spectrum(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues (b, n) and the first m + 1 eigenvectors (b, n, m + 1) of the graph of tokens (b, n, d).

        Raises:
            ValueError: if there are too few tokens.
        """
        least = max(self.neighbours, self.vectors + 1)
        if features.shape[1] < least:
            raise ValueError(
                f"{features.shape[1]} tokens are too few for a graph of {self.neighbours} neighbours and {self.vectors} vectors"
            )
        if features.device.type == "mps":  # has no float64
            values, vectors = self.spectrum(features.cpu())
            return values.float().to(features.device), vectors.float().to(features.device)
        graph = similarity_graph(features, self.neighbours, "batch" if self.released else "image", self.floor)
        return smallest_eigenvectors(laplacian(graph), self.vectors + 1)

    @torch.no_grad()
    def forward(self, features: Tensor, height: int, width: int) -> Tensor:
        """(b, h*w, d) -> (b, m, h, w)."""
        _, vectors = self.spectrum(features)
        signed = with_signs(vectors[..., 1:], "token" if self.released else "vector")
        return signed.mT.unflatten(2, (height, width))


class SpectralDown(nn.Module):
    """Half the sides, rounded up, of a map and of the values that its tokens are visited by; then a linear layer and a norm for the map.

    Args:
        width_in, width_out: channels before and after.
        released: keep even positions, as published, and not what turns keep.
    """

    def __init__(self, width_in: int, width_out: int, released: bool) -> None:
        super().__init__()
        self.released = released
        self.conv = nn.Conv2d(width_in, width_out, 1)
        self.norm = ChannelLayerNorm(width_out)

    def forward(self, x: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """(b, c, h, w), (b, m, h, w) -> (b, c', h', w'), (b, m, h', w')."""
        reduce = kept_positions if self.released else turned_alike
        return self.norm(self.conv(reduce(x))), reduce(values)

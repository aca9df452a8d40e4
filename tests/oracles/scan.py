"""The selective scan by its definition: one token after another, in float64."""

import numpy as np


def softplus(x: np.ndarray) -> np.ndarray:
    return np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20.0))))


def selective_scan(u, delta, A, B, C, D=None, delta_bias=None, order=None, delta_softplus=True) -> np.ndarray:
    """y (b, l, g, d) of numpy arrays in the layout of eqmambair.ops.selective_scan."""
    u, delta, A, B, C = (np.asarray(x, dtype=np.float64) for x in (u, delta, A, B, C))
    batch, length, groups, channels = delta.shape
    u = np.broadcast_to(u, delta.shape)
    y = np.full(delta.shape, np.nan)
    for b in range(batch):
        for g in range(groups):
            path = range(length) if order is None else order[g] if order.ndim == 2 else order[b, g]
            h = np.zeros((channels, A.shape[2]))
            for p in path:
                step = delta[b, p, g] + (0.0 if delta_bias is None else delta_bias[g])
                if delta_softplus:
                    step = softplus(step)
                h = np.exp(step[:, None] * A[g]) * h + step[:, None] * B[b, p, g][None, :] * u[b, p, g][:, None]
                y[b, p, g] = h @ C[b, p, g] + (0.0 if D is None else D[g] * u[b, p, g])
    return y

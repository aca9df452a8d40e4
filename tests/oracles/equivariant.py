"""The layers of quarter turns as written in the paper: loops over fields and orientations, numpy alone, float64.

Feature maps are (fields, orientations, h, w) here; `turn` is one counter-clockwise quarter turn of the last two axes.
"""

import numpy as np
from scipy.signal import correlate2d

T = 4


def turn(a, k):
    return np.rot90(a, k, axes=(-2, -1))


def correlate(x, kernel):
    """Cross-correlation that keeps the size, zeros outside."""
    return correlate2d(x, kernel, mode="same")


def lifting(x, W, b):
    """x (n, h, w), W (m, n, k, k), b (m) -> (m, T, h, w)."""
    return np.array([[sum(correlate(x[n], turn(W[m, n], k)) for n in range(len(x))) + b[m] for k in range(T)] for m in range(len(W))])


def group(x, W, b):
    """x (n, T, h, w), W (m, n, T, k, k), b (m) -> (m, T, h, w)."""
    return np.array(
        [
            [
                sum(correlate(x[n, l], turn(W[m, n, (l - k) % T], k)) for n in range(len(x)) for l in range(T)) + b[m]  # noqa: E741
                for k in range(T)
            ]
            for m in range(len(W))
        ]
    )


def projection(x, W, b):
    """x (n, T, h, w), W (m, n, k, k), b (m) -> (m, h, w)."""
    return np.array([sum(correlate(x[n, k], turn(W[m, n], k)) for n in range(len(x)) for k in range(T)) + b[m] for m in range(len(W))])


def depthwise(x, W, b):
    """x (n, T, h, w), W (q*n, k, k), b (q*n) -> (q*n, T, h, w)."""
    q = len(W) // len(x)
    return np.array([[correlate(x[m // q, k], turn(W[m], k)) + b[m] for k in range(T)] for m in range(len(W))])


def linear(x, W, b):
    """x (n, T), W (m, n, T), b (m) -> (m, T)."""
    y = np.zeros((len(W), T))
    for m in range(len(W)):
        for k in range(T):
            y[m, k] = b[m] + sum(W[m, n, (l - k) % T] * x[n, l] for n in range(len(x)) for l in range(T))  # noqa: E741
    return y


def pixel_shuffle(x, s):
    """x (c*s*s, T, h, w) -> (c, T, s*h, s*w)."""
    fields, _, h, w = x.shape
    y = np.zeros((fields // s**2, T, s * h, s * w))
    for m in range(len(y)):
        for k in range(T):
            for i in range(h):
                for j in range(w):
                    cell = np.array([[x[m * s * s + a * s + b, k, i, j] for b in range(s)] for a in range(s)])
                    y[m, k, s * i : s * i + s, s * j : s * j + s] = turn(cell, k)
    return y

"""Eigenvectors for the smallest eigenvalues of many symmetric matrices; always an answer, also where a solver finds none."""

import warnings

import torch
from torch import Tensor


@torch.library.custom_op("eqmambair::smallest_eigenvectors", mutates_args=())
def smallest_eigenvectors(matrices: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Decompose a batch of symmetric matrices, on their device (those that have no float64 use the CPU).

    A matrix that is not finite, or for which the solver does not converge on its device nor on the CPU, gets a stand-in: eigenvalues zero
    and, for every vector, values that grow from the first entry to the last. A warning tells so. No gradient flows.

    Args:
        matrices: (b, n, n), float64.
        count: eigenvectors that are wanted, from 0 to n.

    Returns:
        All eigenvalues, ascending, (b, n), and the unit eigenvectors of the `count` smallest as columns, (b, n, count).
    """
    b, n, _ = matrices.shape
    finite = matrices.isfinite().all(-1).all(-1)
    identity = torch.eye(n, dtype=matrices.dtype, device=matrices.device)
    values, vectors, solved = _decomposed(torch.where(finite[:, None, None], matrices, identity))
    solved = solved & finite
    if not bool(solved.all()):
        left = int(b - solved.sum())
        warnings.warn(
            f"{left} of {b} eigen-decompositions failed (non-finite or no convergence): tokens are read by rows", RuntimeWarning, 2
        )
        ramp = torch.linspace(-1, 1, n, dtype=matrices.dtype, device=matrices.device)
        ramp = ramp / ramp.norm()
        values = torch.where(solved[:, None], values, 0.0)
        vectors = torch.where(solved[:, None, None], vectors, ramp[:, None])
    return values, vectors[..., :count].contiguous()


@smallest_eigenvectors.register_fake
def _(matrices: Tensor, count: int) -> tuple[Tensor, Tensor]:
    b, n, _ = matrices.shape
    return matrices.new_empty(b, n), matrices.new_empty(b, n, count)


def _decomposed(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues, eigenvectors, and for which matrices they are right; those are tried one by one when the batch fails."""
    try:
        values, vectors = torch.linalg.eigh(matrices)
        return values, vectors, values.isfinite().all(-1)
    except torch.linalg.LinAlgError:
        pass
    found = [_decomposed_alone(each) for each in matrices.cpu()]
    values, vectors, solved = (torch.stack(parts).to(matrices.device) for parts in zip(*found, strict=True))
    return values, vectors, solved


def _decomposed_alone(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    try:
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors, values.isfinite().all()
    except torch.linalg.LinAlgError:
        return matrix.new_zeros(len(matrix)), torch.zeros_like(matrix), torch.tensor(False)

"""MAP points and whitened Jacobians of (design, draw) pairs, many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hippylib_dino.inference.newton import solve
from hippylib_dino.network.latent_map import LatentMap
from hippylib_dino.oed.experiment import Experiment
from hippylib_dino.oed.tangent import Tangent

PAIRS = 64  # solved together: what they need fits a processor's cache
PAIRS_ON_DEVICE = 8192  # enough to keep a GPU busy
MAX_ITER = 50


@dataclass(frozen=True)
class LaplaceBatch:
    """Pairs of some designs and all draws, the draws of a design one after the other.

    Attributes
    ----------
    designs : list of tuple
    x : (n, rM)
        MAP points.
    jacobian : (n, k, rM)
        G = C⁻¹(Φ ∂f)_S with Γ_SS = C Cᵀ: the misfit's Gauss-Newton Hessian is GᵀG.  Designs with fewer observables than
        k have rows of zeros.
    converged : (n,)
    """

    designs: list[tuple[int, ...]]
    x: np.ndarray
    jacobian: np.ndarray
    converged: np.ndarray


def laplace_batches(
    experiment: Experiment,
    designs: Sequence[tuple[int, ...]],
    data: np.ndarray,
    *,
    start: Tangent,
    at_mean: Tangent,
    rel_tolerance: float,
    engine: str = "numpy",
) -> Iterator[LaplaceBatch]:
    """Solve for all designs and all data.

    Parameters
    ----------
    experiment : Experiment
    designs : tuples of sensor numbers, none empty
    data : (n, dQ)
        Of all candidates, less q̄, in noise standard deviations.
    start : Tangent
        Whose MAP points the solves start from.
    at_mean : Tangent
        At the prior mean, for the gradient that the tolerance refers to.
    rel_tolerance : float
    engine : str
        "numpy", or "keras" for Keras's device.
    """
    solver, pairs = (_solve, PAIRS) if engine == "numpy" else (_solve_on_device, PAIRS_ON_DEVICE)
    size = max(1, pairs // len(data))
    for first in range(0, len(designs), size):
        some = list(designs[first : first + size])
        W, b, points, scale = _whitened(experiment, some, data, start, at_mean)
        rows = np.repeat(W, len(data), axis=0)
        parts = [
            solver(experiment.f, rows[part], b[part], points[part], scale[part], rel_tolerance)
            for part in (slice(k, k + pairs) for k in range(0, len(rows), pairs))
        ]
        yield LaplaceBatch(some, *(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _solve(
    f: LatentMap, rows: np.ndarray, b: np.ndarray, start: np.ndarray, scale: np.ndarray, rel_tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, G and whether it converged, of a batch of pairs."""
    found = solve(f, rows.swapaxes(1, 2), b, start, rel_tolerance=rel_tolerance, max_iter=MAX_ITER, scale=scale)
    return found.x, f.linearize(found.x).pull(rows), found.converged


def _solve_on_device(
    f: LatentMap, rows: np.ndarray, b: np.ndarray, start: np.ndarray, scale: np.ndarray, rel_tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from hippylib_dino.oed.device import solve as solve_on_device  # which imports Keras

    return solve_on_device(f, rows, b, start, scale, rel_tolerance=rel_tolerance, max_iter=8 * MAX_ITER)


def _whitened(
    experiment: Experiment, designs: list[tuple[int, ...]], data: np.ndarray, start: Tangent, at_mean: Tangent
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """C⁻¹Φ_S (n_designs, k, rQ); and for each pair C⁻¹d_S (n, k), where to start (n, rM), gradient at the mean (n,)."""
    observed = [experiment.rows(design) for design in designs]
    k = max(len(rows) for rows in observed)
    W = np.zeros((len(designs), k, experiment.decoder.shape[1]))
    b = np.zeros((len(designs), len(data), k))
    points, scale = [], []
    for i, (design, rows) in enumerate(zip(designs, observed, strict=True)):
        W[i, : len(rows)] = experiment.whiten(rows, experiment.decoder[rows])
        b[i, :, : len(rows)] = experiment.whiten(rows, data[:, rows].T).T
        points.append(start.map(design))
        scale.append(np.linalg.norm(at_mean.gradient(design), axis=1))
    return W, b.reshape(-1, k), np.concatenate(points), np.concatenate(scale)

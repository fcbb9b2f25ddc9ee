"""One random stream a sample, so that a sample depends on (seed, index) alone."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import dolfin as dl
import hippylib as hp
import numpy as np

from hippylib_dino.modeling.spaces import DofOrder, gather, owned_values, set_owned_values
from hippylib_dino.random_streams import stream

TIED = 1e-9  # relative to the largest of a key: values closer than this differ by rounding only

_positions: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # prior -> what `noise_positions` found


def draw_parameter(prior, seed: int | Sequence[int], index: int) -> dl.Vector:
    """Sample `index` of the prior: a new parameter vector, mean included.

    The stream's numbers are handed out by the position of the white noise in space, so that a mesh on any
    number of ranks, numbered in any way, gets the same sample to rounding.  That holds for hIPPYlib's
    `LaplacianPrior`, `SqrtPrecisionPDE_Prior`, and what makes one (`BiLaplacianPrior`, `VectorBiLaplacianPrior`,
    ...).  Other priors, `GaussianRealPrior` or a user's own, get the numbers in the numbering of their noise vector.

    With the seed of a dataset these are its samples.  No other draw of this package is among them
    (`hippylib_dino.random_streams`); for one of your own take another seed.

    Examples
    --------
    >>> import hippylib_dino as hd
    >>> m = hd.data.draw_parameter(model.prior, seed=0, index=7)  # doctest: +SKIP
    """
    noise = _noise_vector(prior)
    set_owned_values(noise, stream(seed, index).standard_normal(noise.size())[noise_positions(prior)])
    m = prior.mean.copy()
    prior.sample(noise, m, add_mean=True)
    return m


def draw_posterior(posterior: hp.GaussianLRPosterior, seed: int | Sequence[int], index: int) -> dl.Vector:
    """Sample `index` of a low-rank Gaussian posterior around its mean: draw `index` of its prior, contracted."""
    prior = posterior.prior
    deviation = draw_parameter(prior, seed, index)
    deviation.axpy(-1.0, prior.mean)
    m = prior.mean.copy()
    posterior.sample(deviation, m, add_mean=True)
    return m


def noise_positions(prior) -> np.ndarray:
    """Position of each white noise coefficient that this rank owns in an order that no partition changes.

    Returns
    -------
    ndarray of int, (n_owned,)
        Sorted by `noise_coordinates` for hIPPYlib's priors, the noise vector's own numbering for others.
    """
    first, last = _noise_vector(prior).local_range()
    if not isinstance(prior, (hp.LaplacianPrior, hp.SqrtPrecisionPDE_Prior)):
        return np.arange(first, last)
    if prior not in _positions:
        keys = gather(noise_coordinates(prior), prior.mean.mpi_comm())
        order = np.lexsort([_levels(key) for key in keys.T[::-1]])  # lexsort's last key is the primary one
        position = np.empty(len(order), dtype=np.int64)
        position[order] = np.arange(len(order))
        _positions[prior] = position[first:last]
    return _positions[prior]


def noise_coordinates(prior) -> np.ndarray:
    """Where the white noise of a prior sits, read off the matrix S that loads it on the parameter space.

    hIPPYlib draws the noise at quadrature points x_j with weights w_j, but keeps no function space of it.
    For priors with S = `sqrtM`, S_ij = √w_j φ_i(x_j).  Lagrange shape functions reproduce constants and
    linear functions, hence with nodal coordinates X the quotient (SᵀX)_j / (Sᵀ1)_j is x_j itself.
    `LaplacianPrior` has S = `sqrtR`, in which further coefficients load the derivatives ∂φ_i/∂x_k(x_j): there
    Sᵀ1 vanishes and (Sᵀ(X_k X))_j / (SᵀX_k)_j is taken.  Quadrature points may lie on the border of cells, where
    derivatives jump: there the derivative of a further nodal function tells the cells apart.  Coefficients with
    equal rows here have equal columns in S, and the sample does not depend on which of them gets which number.

    Returns
    -------
    ndarray, (n_owned, 3 + gdim)
        Component, coordinates (in units of the bounding box of the nodes), weight, and Sᵀ of that function / weight.
    """
    laplacian = isinstance(prior, hp.LaplacianPrior)
    load = prior.sqrtR if laplacian else prior.sqrtM
    nodes = DofOrder(prior.Vh)
    corner, span = nodes.coordinates[:, 1:].min(axis=0), np.ptp(nodes.coordinates[:, 1:], axis=0)
    span = np.where(span > 0.0, span, 1.0)  # a flat surface in space
    component, X = nodes.coordinates[nodes.owned, 0], (nodes.coordinates[nodes.owned, 1:] - corner) / span
    m, noise = prior.mean.copy(), _noise_vector(prior)

    def moment(nodal: np.ndarray) -> np.ndarray:
        set_owned_values(m, nodal)
        load.transpmult(m, noise)
        return owned_values(noise)

    if laplacian:
        probes = [np.ones(len(X)), *X.T]
    else:
        probes = [(component == c).astype(float) for c in np.unique(nodes.coordinates[:, 0])]
    weights = np.array([moment(probe) for probe in probes])
    found = np.abs(weights) > 1e-6 * np.abs(weights).max(axis=0)
    which = found.argmax(axis=0), np.arange(weights.shape[1])  # the first probe that sees the coefficient
    weight = weights[which]
    places = [np.array([moment(probe * x) for probe in probes])[which] / weight for x in X.T]
    uneven = moment(np.cos(1.0 + X @ np.sqrt([2.0, 3.0, 5.0][: X.shape[1]])))  # has no symmetry that a mesh could share
    return np.column_stack([which[0], *places, weight, uneven / weight])


def _levels(values: np.ndarray) -> np.ndarray:
    """Rank of each value among the distinct ones, (n,) to (n,) of int; values within rounding share a rank.

    Rounding to a number of digits would part equal values that lie on the edge between two digits.
    """
    order = np.argsort(values)
    levels = np.empty(len(values), dtype=np.int64)
    ascending = values[order]
    levels[order] = np.concatenate([[0], np.cumsum(np.diff(ascending) > TIED * np.abs(values).max())])
    return levels


def _noise_vector(prior) -> dl.Vector:
    noise = dl.Vector(prior.R.mpi_comm())
    prior.init_vector(noise, "noise")
    return noise

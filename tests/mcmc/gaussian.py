"""The linear problem with its exact posterior, an exact and a deliberately wrong surrogate."""

from typing import NamedTuple

import hippylib as hp
import numpy as np

import hippylib_dino as hd
from hippylib_dino.modeling.spaces import owned_values
from hippylib_dino.network.polynomial import Polynomial
from tests import problems

VARIANCE = 1e-2  # of the noise


class Problem(NamedTuple):
    """The linear problem with its exact posterior."""

    model: hd.JacobianModel
    surrogates: dict
    laplace: hp.GaussianLRPosterior
    whiten: np.ndarray  # rows a: a (m - mean) are independent N(0, 1) under the posterior
    mean: np.ndarray


def build(linear_dino):
    """The problem, observed with more noise than usual."""
    model = problems.accelerated(problems.linear(hd.sample_communicator()))
    model.misfit.noise_variance = VARIANCE
    problems.observe_truth(model)
    prior, n = model.prior, model.prior.mean.size()
    R = hd.modeling.spaces.map_block(lambda out, x: prior.R.mult(x, out), prior.mean, prior.mean, np.eye(n))
    J, data = model.jacobian(prior.mean).to_dense(), owned_values(model.misfit.d)
    precision = R + J.T @ J / VARIANCE
    gradient = J.T @ (model.value(prior.mean) - data) / VARIANCE
    m0 = owned_values(prior.mean)
    surrogates = {
        name: hd.SurrogateModel(dino, prior, model.misfit)
        for name, dino in (("exact", linear_dino), ("wrong", wrong(linear_dino)))
    }
    x, solver = problems.solve_map(surrogates["wrong"])
    assert solver.converged
    laplace = hd.laplace(surrogates["wrong"], x)
    wide = hp.GaussianLRPosterior(prior, 0.6 * laplace.d, laplace.U)  # generalised pCN sticks in heavier tails
    wide.mean = laplace.mean
    return Problem(
        model, surrogates, wide,
        np.linalg.cholesky(0.5 * (precision + precision.T)).T, m0 - np.linalg.solve(precision, gradient),
    )  # fmt: skip


def wrong(dino):
    """A surrogate with a scaled and a curved map."""
    rng = np.random.default_rng(8)
    J, shift = dino.weights[0].T, dino.weights[1]
    bent = 0.004 * np.abs(J).max() * rng.standard_normal((9, 9, 9))
    return hd.DINO(
        Polynomial(9, 9, degree=2), [shift + 0.02 * np.abs(J).max(), 0.95 * J, bent],
        dino.input_basis, dino.output_basis, dino.fingerprint,
    )  # fmt: skip

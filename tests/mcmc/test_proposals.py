"""Proposals: the formulas against dense Gaussian densities, and a chain against quadrature."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

import hippylib_dino as hd
from hippylib_dino.mcmc import MALA, PCN, Geometric, Laplace
from hippylib_dino.mcmc.proposals import Evaluation, Metric

DATA = np.array([1.0, -0.5])


def evaluate(x):
    """½‖q(x) - d‖² of a curved map from R^dim to R²."""
    weights = np.arange(1.0, 1.0 + 2 * len(x)).reshape(2, -1) / len(x)
    inner = weights @ x
    residual, factor = np.sin(inner) + inner - DATA, (np.cos(inner) + 1.0)[:, None] * weights
    return Evaluation(0.5 * residual @ residual, factor.T @ residual, factor)


class Coordinates:
    """Latent coordinates of a space that is latent already."""

    def encode(self, m):
        return m

    pair = encode


def laplace(step, dim):
    rng = np.random.default_rng(5)
    modes = np.linalg.qr(rng.standard_normal((dim, dim)))[0][:, :2]
    proposal = Laplace(step, SimpleNamespace(d=np.array([3.0, 0.4]), U=list(modes.T), mean=rng.standard_normal(dim)))
    proposal.prepare(Coordinates())
    return proposal, modes * np.array([3.0, 0.4]) @ modes.T


def dense_law(proposal, hessian, x):
    """Mean and covariance of a proposal from x, by the eigenpairs of H."""
    evaluation, rho = evaluate(x), (4 - proposal.step) / (4 + proposal.step)
    gradient = evaluation.gradient
    if isinstance(proposal, PCN):
        hessian, gradient = np.zeros_like(hessian), np.zeros_like(x)
    elif isinstance(proposal, MALA):
        hessian = np.zeros_like(hessian)
    elif isinstance(proposal, Geometric):
        hessian = evaluation.factor.T @ evaluation.factor
    else:
        center = proposal.posterior.mean
        gradient = hessian @ (x - center) - center  # of the Gaussian's potential with respect to the prior
    values, V = np.linalg.eigh(hessian)
    mean = V @ ((values + rho) / (values + 1) * (V.T @ x) - (1 - rho) / (values + 1) * (V.T @ gradient))
    return mean, V * ((1 - rho**2) / (values + 1)) @ V.T


def proposals(dim):
    fixed, hessian = laplace(1.7, dim)
    return {"PCN": PCN(0.3), "MALA": MALA(0.7), "Geometric": Geometric(1.3), "Laplace": fixed}, hessian


NAMES = ("PCN", "MALA", "Geometric", "Laplace")


@pytest.mark.parametrize("name", NAMES)
def test_acceptance_ratio_is_that_of_explicit_densities(name, rng):
    every, hessian = proposals(3)
    proposal = every[name]

    def log_flow(x, y):
        """log of posterior at x times proposal from x to y."""
        mean, covariance = dense_law(proposal, hessian, x)
        return -evaluate(x).potential - 0.5 * x @ x + multivariate_normal(mean, covariance).logpdf(y)

    for _ in range(10):
        x, y = rng.standard_normal((2, 3))
        points = [proposal.point(z, evaluate(z)) for z in (x, y)]
        expected = log_flow(y, x) - log_flow(x, y)
        assert proposal.log_ratio(*points) == pytest.approx(expected, rel=1e-10, abs=1e-10)
        assert proposal.log_ratio(*points[::-1]) == pytest.approx(-expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_draws_have_the_mean_and_covariance_of_the_formula(name, rng):
    every, hessian = proposals(3)
    x = rng.standard_normal(3)
    point = every[name].point(x, evaluate(x))
    draws = np.array([every[name].draw(point, rng) for _ in range(8000)])
    mean, covariance = dense_law(every[name], hessian, x)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (draws - mean).T)
    # means have deviation 8000^-½, entries of the covariance at most √2 as much: 4.5 deviations
    assert np.abs(white.mean(axis=1)).max() < 4.5 / np.sqrt(8000)
    assert np.abs(white @ white.T / 8000 - np.eye(3)).max() < 4.5 * np.sqrt(2 / 8000)


def test_metric_is_the_dense_one(rng):
    factor = rng.standard_normal((2, 5))
    metric, dense, v = Metric(factor), np.eye(5) + factor.T @ factor, rng.standard_normal(5)
    np.testing.assert_allclose(metric.solve(v), np.linalg.solve(dense, v), rtol=1e-12)
    assert metric.log_det == pytest.approx(np.linalg.slogdet(dense)[1], rel=1e-12)
    assert metric.misfit_energy(v) == pytest.approx(v @ (dense - np.eye(5)) @ v, rel=1e-12)


def test_metric_that_cannot_be_factored_is_a_failed_solve():
    with pytest.raises(hd.errors.SolveError, match="huge entries"):
        Metric(np.full((2, 3), 1e200))


def test_laplace_proposal_is_always_accepted_for_its_own_gaussian(rng):
    proposal, hessian = laplace(1.7, 4)
    mean = proposal.posterior.mean

    def point(x):
        gap = x - mean
        return proposal.point(x, Evaluation(0.5 * (gap @ gap + gap @ hessian @ gap - x @ x)))

    x, y = rng.standard_normal((2, 4))
    assert proposal.log_ratio(point(x), point(y)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_chain_has_the_moments_of_a_curved_posterior(name):
    grid = np.linspace(-5, 5, 1201)
    log_density = np.array([-evaluate(np.array([z])).potential - 0.5 * z * z for z in grid])
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    mean = weights @ grid
    variance = weights @ (grid - mean) ** 2
    steps = {"PCN": PCN(1.0), "MALA": MALA(0.4), "Geometric": Geometric(2.0)}
    proposal = steps.get(name) or one_dimensional_laplace()
    rng = np.random.default_rng(2)
    point, chain = proposal.point(np.zeros(1), evaluate(np.zeros(1))), []
    for _ in range(20000):
        x = proposal.draw(point, rng)
        candidate = proposal.point(x, evaluate(x))
        if np.log(rng.random()) < proposal.log_ratio(point, candidate):
            point = candidate
        chain.append(point.x[0])
    standard = (np.array(chain) - mean) / np.sqrt(variance)
    for values in (standard, standard**2 - 1):
        batches = values.reshape(50, -1).mean(axis=1)
        assert abs(batches.mean()) < 4.5 * batches.std(ddof=1) / np.sqrt(50)


def one_dimensional_laplace():
    proposal = Laplace(2.0, SimpleNamespace(d=np.array([4.0]), U=[np.ones(1)], mean=np.array([0.1])))
    proposal.prepare(Coordinates())
    return proposal


@pytest.mark.parametrize("step", [0.0, -1.0, np.nan, np.inf])
def test_step_must_be_a_length(step):
    with pytest.raises(hd.errors.InputError, match="step: expected a length h > 0"):
        PCN(step)


def test_laplace_posterior_needs_a_mean():
    with pytest.raises(hd.errors.InputError, match="posterior: has no mean"):
        Laplace(1.0, SimpleNamespace(mean=None))


@pytest.mark.parametrize("proposal", [MALA(1.0), Geometric(1.0)])
def test_derivatives_that_are_missing_are_an_error(proposal):
    with pytest.raises(hd.errors.InputError, match=r"expected .*gradient"):
        proposal.point(np.zeros(2), Evaluation(0.0))

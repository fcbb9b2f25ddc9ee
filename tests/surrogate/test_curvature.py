"""Verdicts on surrogates that are wrong in known ways, where the truth is known in closed form."""

import dataclasses

import dolfin as dl
import hippylib as hp
import numpy as np
import pytest
import scipy.linalg as sla

import hippylib_dino as hd
from hippylib_dino.modeling.spaces import owned_values, set_owned_values
from hippylib_dino.surrogate.certification import certify
from hippylib_dino.surrogate.metric import latent_posterior
from tests.problems import observe_truth, sensors, solve_map
from tests.surrogate.affine_problems import full_bases

THRESHOLD = 0.3


# ---- wrong Jacobians of an affine problem ------------------------------------------------


def scaled(J, residual, rng):
    return np.exp(rng.uniform(-1.0, 1.4)) * J


def right_on_the_residual(J, residual, rng):
    """Ĵᵀρ = Jᵀρ for the whitened residual ρ, and up to four times too large across it."""
    c = rng.uniform(1.5, 4.0)
    return c * J - (c - 1.0) * np.outer(residual, residual @ J) / (residual @ residual)


def rotated(J, residual, rng):
    skew = rng.standard_normal((J.shape[1], J.shape[1]))
    return J @ sla.expm(rng.uniform(0.0, 0.3) * (skew - skew.T) / len(skew) ** 0.5)


def one_direction(J, residual, rng):
    """One of the informed directions up to five times too large."""
    v = np.linalg.svd(J)[2][rng.integers(5)]
    return J + rng.uniform(0.0, 4.0) * np.outer(J @ v, v)


def noisy(J, residual, rng):
    """As large as the weakly informed directions: the surrogate takes noise for information."""
    return J + 0.05 * np.linalg.norm(J) / len(J) * rng.standard_normal(J.shape)


def nearly_right(J, residual, rng):
    return J + 0.03 * rng.standard_normal((len(J), len(J))) @ J


def ten_percent(J, residual, rng):
    return rng.choice([0.9, 1.1]) * J


FAMILIES = (scaled, right_on_the_residual, rotated, one_direction, noisy, nearly_right, ten_percent)


@pytest.fixture(scope="module")
def affine(models, linear_dino):
    return certified_problem(models["linear"], linear_dino)


def certified_problem(model, dino):
    """The model, its DINO, its MAP point and the metric there."""
    observe_truth(model)
    m = solve_map(model)[0][hp.PARAMETER]
    return model, dino, m, latent_posterior(hd.SurrogateModel(dino, model.prior, model.misfit), m)


def displaced(m, posterior, rng):
    """A point some posterior deviations from the MAP point, and how many per informed direction."""
    share = posterior.d / (1 + posterior.d)
    coordinates = rng.standard_normal(len(posterior.d)) * np.sqrt(share)
    coordinates *= rng.uniform(0.0, 1.2) * np.sqrt(share.sum()) / np.linalg.norm(coordinates)
    there = m.copy()
    for c, d, u in zip(coordinates, posterior.d, (posterior.U[j] for j in range(len(coordinates))), strict=True):
        there.axpy(float(c / np.sqrt(1 + d)), u)
    return there, np.linalg.norm(coordinates) / np.sqrt(share.sum())


def verdicts(affine, family, n, seed):
    """True and estimated displacement per informed direction, the verdict, and what `old_estimate` says, (n, 4)."""
    model, dino, m, posterior = affine
    J, bias = dino.weights[0].T, dino.weights[1]
    rng = np.random.default_rng([seed, FAMILIES.index(family)])
    rows = []
    for _ in range(n):
        there, truth = displaced(m, posterior, rng)
        gap = model.evalObservable(there) - owned_values(model.misfit.d)
        wrong = family(J, dino.output_basis.encoder.T @ gap, rng)
        surrogate = hd.SurrogateModel(dataclasses.replace(dino, weights=[wrong.T, bias]), model.prior, model.misfit)
        found = certify(surrogate, model, there, threshold=THRESHOLD, seed=len(rows))
        rows.append((truth, found.relative_distance, found.trusted, old_estimate(surrogate, model, there)))
    return np.array(rows)


def old_estimate(surrogate, model, m):
    """√(gᵀĤ⁻¹g/n̂), which takes the surrogate's Hessian for the PDE's."""
    posterior, x = latent_posterior(surrogate, m), [model.solveState(m), m, model.generate_vector(hp.ADJOINT)]
    model.solveAdj(x[hp.ADJOINT], x)
    g, step = model.generate_vector(hp.PARAMETER), model.generate_vector(hp.PARAMETER)
    model.evalGradientParameter(x, g)
    posterior.Hlr.solve(step, g)
    return np.sqrt(step.inner(g) / max((posterior.d / (1 + posterior.d)).sum(), 1.0))


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_surrogates_are_not_trusted(affine, family):
    """No point that is off by more than a fifth beyond the threshold passes, of whatever wrong surrogate."""
    truth, estimate, trusted, _ = verdicts(affine, family, 12, seed=0).T
    assert not trusted[truth > 1.2 * THRESHOLD].any()
    assert (estimate > 0.7 * truth).all()
    assert (truth > 1.2 * THRESHOLD).sum() >= 3


def test_the_surrogates_own_hessian_would_hide_the_distance(affine):
    """The negative control: what was estimated from it passes wrong surrogates."""
    found = np.concatenate([verdicts(affine, family, 12, seed=0) for family in FAMILIES[:2]])
    assert (found[found[:, 0] > 1.2 * THRESHOLD, 3] <= THRESHOLD).any()


def test_points_near_the_map_are_trusted(affine):
    truth, estimate, trusted, _ = verdicts(affine, ten_percent, 12, seed=3).T
    np.testing.assert_allclose(estimate, truth, rtol=0.1)
    near = truth < 0.85 * THRESHOLD
    assert trusted[near].all()
    assert near.any()


def test_informed_directions_are_those_the_pde_sees(affine):
    """Of outputs three times too large the count would be of the surrogate's eigenvalues, nine times too large."""
    model, dino, m, posterior = affine
    wrong = hd.SurrogateModel(
        dataclasses.replace(dino, weights=[3.0 * dino.weights[0], dino.weights[1]]), model.prior, model.misfit
    )
    right = (posterior.d / (1 + posterior.d)).sum()
    found = certify(wrong, model, m)
    assert found.informed_directions == pytest.approx(right, rel=0.05)
    assert (9 * posterior.d / (1 + 9 * posterior.d)).sum() > 1.1 * right
    assert found.lowest_curvature < 0.2  # of 1/9 where the data inform
    assert found.n_linearized <= 8


def test_largest_direction_is_not_hidden_by_the_mean(affine):
    """A displacement by two deviations along one eigenvector."""
    model, dino, m, posterior = affine
    there = m.copy()
    there.axpy(2.0 / np.sqrt(1 + posterior.d[1]), posterior.U[1])
    found = certify(hd.SurrogateModel(dino, model.prior, model.misfit), model, there)
    assert found.largest_direction == pytest.approx(2.0, rel=1e-4)
    assert found.distance == pytest.approx(2.0, rel=1e-4)


# ---- a saddle ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def even():
    """-div grad u + u = m²: the map is even, and the prior mean 0 a stationary point whatever the data."""
    mesh = dl.UnitSquareMesh(hd.sample_communicator(), 4, 4)
    space = dl.FunctionSpace(mesh, "Lagrange", 1)

    def residual(u, m, p):
        return (dl.inner(dl.grad(u), dl.grad(p)) + u * p - m**2 * p) * dl.dx(degree=3)

    pde = hd.AcceleratedVariationalProblem([space] * 3, residual, [], [], is_fwd_linear=True)
    prior = hp.BiLaplacianPrior(space, 0.2, 1.0, robin_bc=True, solver_type="lu")
    misfit = hp.DiscreteStateObservation(hp.assemblePointwiseObservation(space, sensors(3)), noise_variance=1e-4)
    return hd.JacobianModel(pde, prior, misfit)


@pytest.mark.parametrize("order", [1, 2])
def test_saddle_is_refused(even, order):
    """Of a surrogate that knows the curvature, and of one that takes the map for constant."""
    surrogate = hd.SurrogateModel(
        hd.taylor_expansion(even, full_bases(even), order=order, progress=False), even.prior, even.misfit
    )
    set_owned_values(even.misfit.d, even.evalObservable(hd.data.draw_parameter(even.prior, 3, 0)))
    saddle = certify(surrogate, even, even.prior.mean)
    assert saddle.gradient_norm < 1e-6 or saddle.distance < 1e-6
    assert saddle.lowest_curvature < 0
    assert not saddle.trusted
    assert "the point is no minimum" in saddle.reason
    even.misfit.d.zero()  # now the same point is the minimum
    assert certify(surrogate, even, even.prior.mean).trusted

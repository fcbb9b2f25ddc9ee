import dolfin as dl
import hippylib as hp
import numpy as np
import pytest

from hippylib_dino.errors import MisfitError
from hippylib_dino.modeling import CovarianceStateObservation, NoiseCovariance, ObservableMisfit
from hippylib_dino.modeling.observation import noise_covariance, observation_operator
from hippylib_dino.modeling.spaces import owned_values, set_owned_values

SPD = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 3.0]])


@pytest.mark.parametrize("value", [2.0, [1.0, 2.0, 3.0], SPD])
def test_noise_covariance_operations_agree_with_the_dense_matrix(value, rng):
    noise, block = NoiseCovariance(value, dim=3), rng.standard_normal((3, 4))
    dense = noise.to_dense()
    np.testing.assert_allclose(noise.solve(block), np.linalg.solve(dense, block))
    np.testing.assert_allclose(noise.solve(block[:, 0]), np.linalg.solve(dense, block[:, 0]))
    np.testing.assert_allclose(noise.color(noise.whiten(block)), block)
    np.testing.assert_allclose(noise.whiten(block).T @ noise.whiten(block), block.T @ np.linalg.solve(dense, block))
    draws = np.array([noise.sample(rng) for _ in range(20000)])
    np.testing.assert_allclose(np.cov(draws.T), dense, atol=0.15)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.0, "noise variance: expected > 0, got 0"),
        ([1.0, -1.0, 1.0], "noise variance: expected > 0, got -1"),
        ([1.0, 2.0], r"expected a scalar, \(3,\) variances or a \(3, 3\) matrix, got shape \(2,\)"),
        (np.nan, "not finite"),
        (np.triu(SPD), "not symmetric"),
        (-SPD, "not positive definite"),
    ],
)
def test_noise_covariance_rejects(value, message):
    with pytest.raises(MisfitError, match=message):
        NoiseCovariance(value, dim=3)


def test_misfit_without_observation_operator_is_named(models):
    space = models["linear"].problem.Vh[hp.STATE]
    continuous = hp.ContinuousStateObservation(space, dl.dx, None)
    with pytest.raises(MisfitError, match="expected one with a linear observation operator `B`, got ContinuousState"):
        observation_operator(continuous)


@pytest.mark.parametrize(("variance", "message"), [(None, "noise variance: not set"), (-1.0, "expected > 0, got -1")])
def test_missing_or_negative_noise_variance_is_named(models, variance, message):
    misfit = hp.DiscreteStateObservation(models["linear"].misfit.B, noise_variance=variance)
    with pytest.raises(MisfitError, match=message):
        noise_covariance(misfit)


def test_covariance_not_set_is_named(models):
    misfit = CovarianceStateObservation(models["linear"].misfit.B)
    with pytest.raises(MisfitError, match="noise_covariance: not set"):
        misfit.cost([models["linear"].problem.generate_state(), None, None])


def _covariance_misfit(model, dense):
    n = model.misfit.B.size(0)
    return CovarianceStateObservation(model.misfit.B, noise_covariance=np.diag(np.full(n, 1e-4)) if dense else 1e-4)


@pytest.mark.parametrize("dense", [False, True])
def test_covariance_misfit_equals_hippylibs_for_scalar_noise(models, dense):
    from tests.problems import observe_truth

    model = models["linear"]
    observe_truth(model)
    ours, theirs = _covariance_misfit(model, dense), model.misfit
    set_owned_values(ours.d, owned_values(theirs.d))
    x = [model.solveState(model.prior.mean), model.prior.mean, None]
    assert ours.cost(x) == pytest.approx(theirs.cost(x), rel=1e-12)
    a, b = model.problem.generate_state(), model.problem.generate_state()
    ours.grad(hp.STATE, x, a)
    theirs.grad(hp.STATE, x, b)
    np.testing.assert_allclose(owned_values(a), owned_values(b), rtol=1e-9, atol=1e-9)
    ours.apply_ij(hp.STATE, hp.STATE, x[0], a)
    theirs.apply_ij(hp.STATE, hp.STATE, x[0], b)
    np.testing.assert_allclose(owned_values(a), owned_values(b), rtol=1e-9, atol=1e-9)


def _on_observables(model, misfit):
    """The user's misfit at a state, and the observable misfit at B times that state."""
    state = model.solveState(model.prior.mean)
    q = dl.Vector(misfit.B.mpi_comm())
    misfit.B.init_vector(q, 0)
    misfit.B.mult(state, q)
    return state, q


@pytest.mark.parametrize("kind", ["scalar", "dense", "multiplicative"])
def test_observable_misfit_follows_the_users_misfit(models, kind):
    model = models["poisson"]
    B = model.misfit.B
    misfit = {
        "scalar": lambda: hp.DiscreteStateObservation(B, noise_variance=1e-4),
        "dense": lambda: CovarianceStateObservation(B, noise_covariance=1e-4 * np.eye(B.size(0))),
        "multiplicative": lambda: hp.MultDiscreteStateObservation(B, None, 50.0),
    }[kind]()
    wrapped = ObservableMisfit(misfit)
    state, q = _on_observables(model, misfit)
    set_owned_values(misfit.d, 1.1 * owned_values(q))  # in place, after wrapping
    assert wrapped.cost([q, None, None]) == pytest.approx(misfit.cost([state, None, None]), rel=1e-12)
    full, reduced = model.problem.generate_state(), q.copy()
    for point in (state, q):
        (misfit if point is state else wrapped).setLinearizationPoint([point, None, None])
    misfit.grad(hp.STATE, [state, None, None], full)
    wrapped.grad(hp.STATE, [q, None, None], reduced)
    np.testing.assert_allclose(owned_values(_transpose(B, reduced)), owned_values(full), rtol=1e-9, atol=1e-9)
    misfit.apply_ij(hp.STATE, hp.STATE, state, full)
    wrapped.apply_ij(hp.STATE, hp.STATE, q, reduced)
    np.testing.assert_allclose(owned_values(_transpose(B, reduced)), owned_values(full), rtol=1e-9, atol=1e-9)


def _transpose(B, q):
    out = dl.Vector(B.mpi_comm())
    B.init_vector(out, 1)
    B.transpmult(q, out)
    return out


def test_observable_misfit_sees_noise_and_data_assigned_later(models):
    model = models["linear"]
    misfit = hp.DiscreteStateObservation(model.misfit.B, noise_variance=1.0)
    wrapped = ObservableMisfit(misfit)
    _, q = _on_observables(model, misfit)
    before = wrapped.cost([q, None, None])
    misfit.noise_variance = 0.25
    assert wrapped.cost([q, None, None]) == pytest.approx(4 * before)
    misfit.d = q.copy()
    assert wrapped.cost([q, None, None]) == 0.0

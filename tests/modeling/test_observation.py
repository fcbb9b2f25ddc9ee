import dolfin as dl
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import MisfitError
from hippylib_dino.modeling import CovarianceStateObservation, NoiseCovariance, ObservableMisfit
from hippylib_dino.modeling.observation import (
    has_gaussian_noise,
    noise_covariance,
    observation_operator,
    weight_covariance,
)
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


# ---- misfits of one's own ----------------------------------------------------------------


class Robust(hp.DiscreteStateObservation):
    """Pseudo-Huber's cost, with the root of `noise_variance` as its scale: the noise is not Gaussian."""

    def cost(self, x):
        self.B.mult(x[hp.STATE], self.Bu)
        self.Bu.axpy(-1.0, self.d)
        return float((np.sqrt(1.0 + owned_values(self.Bu) ** 2 / self.noise_variance) - 1.0).sum())


class Counted(hp.DiscreteStateObservation):
    """Gaussian, by hIPPYlib's cost, with something of its own."""

    def grad(self, i, x, out):
        self.n_gradients = getattr(self, "n_gradients", 0) + 1
        super().grad(i, x, out)


class Correlated(hp.Misfit):
    """Gaussian with a matrix of its own, which it tells nobody."""

    def __init__(self, B):
        self.B, self.d = B, dl.Vector(B.mpi_comm())
        B.init_vector(self.d, 0)

    def cost(self, x):
        return 0.0


class RobustCovariance(CovarianceStateObservation):
    """Another cost under an inherited statement of the noise."""

    def cost(self, x):
        return float(np.log1p(super().cost(x)))


class Stated(Robust):
    """A class that says itself that its own cost is Gaussian."""

    noise_covariance = 0.25


REFUSED = {
    "robust": lambda B: Robust(B, noise_variance=0.25),
    "correlated": Correlated,
    "of another cost than it inherited": lambda B: RobustCovariance(B, noise_covariance=0.25),
    "multiplicative": lambda B: hp.MultDiscreteStateObservation(B, None, 50.0),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_noise_that_is_not_gaussian_is_refused_with_the_remedy(models, kind):
    misfit = REFUSED[kind](models["linear"].misfit.B)
    assert not has_gaussian_noise(misfit)
    message = (
        rf"noise of {type(misfit).__name__} is not Gaussian.* use hd\.CovarianceStateObservation.* or assign misfit"
    )
    with pytest.raises(MisfitError, match=message):
        noise_covariance(misfit)


def test_noise_is_gaussian_where_the_misfit_says_so(models):
    B = models["linear"].misfit.B
    assert noise_covariance(Counted(B, noise_variance=0.25)).value == 0.25
    assert noise_covariance(Stated(B, noise_variance=4.0)).value == 0.25
    own = Correlated(B)
    own.noise_covariance = np.eye(9) + 0.1
    np.testing.assert_array_equal(noise_covariance(own).value, np.eye(9) + 0.1)
    own.noise_covariance = np.ones(3)
    with pytest.raises(MisfitError, match=r"expected a scalar, \(9,\) variances"):
        noise_covariance(own)


def test_cost_that_is_replaced_on_the_object_is_its_own(models):
    misfit = hp.DiscreteStateObservation(models["linear"].misfit.B, noise_variance=0.25)
    misfit.cost = lambda x: 0.0
    assert not has_gaussian_noise(misfit)
    misfit.noise_covariance = 4.0
    assert noise_covariance(misfit).value == 4.0


def test_weights_are_another_quantity(models):
    B = models["linear"].misfit.B
    weights = {kind: make(B) for kind, make in REFUSED.items()}
    assert weight_covariance(weights["robust"]).value == 0.25
    assert weight_covariance(weights["of another cost than it inherited"]).value == 0.25
    assert weight_covariance(weights["multiplicative"]).value == 1.0
    with pytest.raises(MisfitError, match=r"Assign misfit\.weight_covariance: a variance"):
        weight_covariance(weights["correlated"])
    for misfit in weights.values():
        misfit.weight_covariance = np.arange(1.0, 10.0)
        np.testing.assert_array_equal(weight_covariance(misfit).value, np.arange(1.0, 10.0))
    gaussian = hp.DiscreteStateObservation(B, noise_variance=1e-4)
    assert weight_covariance(gaussian).value == noise_covariance(gaussian).value == 1e-4


def test_model_tells_weights_from_noise(models):
    """Also over time, where the member is named, and of whole states."""
    model = models["linear"]
    robust = hd.JacobianModel(model.problem, model.prior, Robust(model.misfit.B, noise_variance=0.25))
    assert (model.weights_are_noise, robust.weights_are_noise) == (True, False)
    assert robust.data_space.value == robust.weight_covariance.value == 0.25
    with pytest.raises(MisfitError, match="noise of Robust is not Gaussian"):
        robust.noise_covariance  # noqa: B018
    heat = models["heat"]
    members = [heat.misfit.misfits[0], hp.MultDiscreteStateObservation(heat.misfit.misfits[1].B, None, 50.0)]
    mixed = hd.JacobianModel(heat.problem, heat.prior, hp.MisfitTD(members, heat.misfit.sim_times))
    np.testing.assert_array_equal(mixed.weight_covariance.value, [1e-4] * 9 + [1.0] * 8)
    with pytest.raises(MisfitError, match=r"misfits\[1\]: misfit: the noise of MultDiscreteStateObservation is not"):
        mixed.noise_covariance  # noqa: B018
    with pytest.raises(
        MisfitError, match="ContinuousStateObservation observes the whole state, whose noise has no cov"
    ):
        models["state"].noise_covariance  # noqa: B018

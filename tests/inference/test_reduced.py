"""Latent inference against hIPPYlib's route on the surrogate, and against closed forms."""

import dataclasses

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError, MisfitError, ModelFileError, SolveError
from hippylib_dino.inference.newton import solve
from hippylib_dino.modeling.spaces import DofOrder, owned_values
from hippylib_dino.network import ReducedDense
from hippylib_dino.noise import WHOLE_STATE
from tests.problems import observe_truth, solve_map


@pytest.fixture(params=["confusion", "linear"])
def case(request, models, surrogates):
    """A surrogate with data in its misfit, and the latent problem of the same."""
    name = request.param
    model, surrogate = models[name], surrogates[f"{name} surrogate"]
    observe_truth(model)
    return surrogate, hd.ReducedInference(surrogate.dino, model.noise_covariance), owned_values(model.misfit.d).copy()


@pytest.fixture
def inference(confusion_dino, models):
    return hd.ReducedInference(confusion_dino, models["confusion"].noise_covariance)


@pytest.fixture
def batch(inference, rng):
    """Data of prior draws of the surrogate itself, with noise."""
    x = rng.standard_normal((70, 24))  # more than are solved together
    q = inference.dino.output_basis.decode(inference.dino.latent_map.value(x))
    return q + np.array([inference.noise_covariance.sample(rng) for _ in q])


def test_map_is_that_of_newton_cg(case):
    surrogate, inference, data = case
    solution, solver = solve_map(surrogate)
    assert solver.converged
    found = inference.solve(data, rel_tolerance=1e-9)
    order = DofOrder(surrogate.prior.Vh)
    expected = order.to_array(owned_values(solution[1]))
    np.testing.assert_allclose(inference.fields(found.x)[0], expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    assert found.cost[0] == pytest.approx(solver.final_cost, rel=1e-8)


def test_laplace_is_that_of_double_pass(case):
    surrogate, inference, data = case
    solution, _ = solve_map(surrogate)
    expected = hd.laplace(surrogate, solution)
    posterior = inference.laplace(inference.map(data, rel_tolerance=1e-9))
    count = min(len(expected.d), posterior.eigenvalues.shape[1])
    np.testing.assert_allclose(posterior.eigenvalues[0, :count], expected.d[:count], rtol=1e-5, atol=1e-6)
    assert posterior.kl_from_prior()[0] == pytest.approx(expected.klDistanceFromPrior(), rel=1e-5)
    order, prior = DofOrder(surrogate.prior.Vh), surrogate.prior.pointwise_variance(method="Exact")
    with_prior = hd.ReducedInference(
        inference.dino, inference.noise_covariance, prior_variance=order.to_array(owned_values(prior))
    )
    reduction = prior.copy()
    expected.Hlr.LowRankHinv.get_diagonal(reduction)
    exact = order.to_array(owned_values(prior) - owned_values(reduction))
    np.testing.assert_allclose(with_prior.pointwise_variance(posterior)[0], exact, rtol=1e-5)


def test_linear_gaussian_closed_form(linear_dino, models, rng):
    """x = (I + AᵀΓ⁻¹A)⁻¹AᵀΓ⁻¹(d - F(m̄)), with dense algebra."""
    noise = np.diag(rng.uniform(0.5, 2.0, 9)) + 0.1
    inference = hd.ReducedInference(linear_dino, 1e-4 * noise)
    data = rng.standard_normal((3, 9))
    f, basis = linear_dino.latent_map, linear_dino.output_basis
    A, offset = basis.decoder @ f.jacobian(np.zeros(9)), basis.decode(f.value(np.zeros(9)))
    precision = np.linalg.inv(1e-4 * noise)
    hessian = np.eye(9) + A.T @ precision @ A
    expected = np.linalg.solve(hessian, A.T @ precision @ (data - offset).T).T
    found = inference.solve(data, rel_tolerance=1e-10)
    np.testing.assert_allclose(found.x, expected, rtol=1e-7, atol=1e-9)
    misfit = data - offset - expected @ A.T
    cost = 0.5 * np.einsum("ni,ij,nj->n", misfit, precision, misfit) + 0.5 * (expected**2).sum(axis=1)
    np.testing.assert_allclose(found.cost, cost, rtol=1e-9)
    posterior = inference.laplace(found.x)
    draws = posterior.sample(20_000, rng)
    assert draws.shape == (3, 20_000, 9)
    covariance = np.linalg.inv(hessian)
    scale = np.sqrt(np.diag(covariance))
    # five standard errors of 20 000 draws
    assert (np.abs(draws.mean(axis=1) - expected) < 5 * scale / np.sqrt(20_000)).all()
    gap = np.cov(draws[0].T) - covariance
    assert (np.abs(gap) < 5 * np.sqrt(2 / 20_000) * np.outer(scale, scale)).all()


def test_batch_equals_one_by_one(inference, batch):
    together = inference.solve(batch, rel_tolerance=1e-9)
    assert together.converged.all()
    for i in (0, 5, 69):
        alone = inference.map(batch[i], rel_tolerance=1e-9)
        np.testing.assert_allclose(alone, together.x[i], rtol=0, atol=1e-7)


def test_any_start_ends_in_the_same_point(inference, batch):
    default = inference.map(batch, rel_tolerance=1e-9)
    cold = inference.map(batch, start=np.zeros_like(default), rel_tolerance=1e-9)
    np.testing.assert_allclose(cold, default, rtol=0, atol=1e-6)


def test_a_tolerance_below_rounding_ends_at_the_floor(inference, batch):
    """No processor reaches 1e-18: the points are those of a tolerance that can be reached, and no failures."""
    found, reached = (inference.solve(batch, rel_tolerance=t, max_iter=60) for t in (1e-18, 1e-9))
    assert found.converged.all()
    assert (found.gradient_norm > 1e-18).all()
    assert found.iterations.max() < 60
    np.testing.assert_allclose(found.x, reached.x, rtol=0, atol=1e-6)
    assert not inference.solve(batch, rel_tolerance=1e-18, max_iter=1).converged.any()


def test_data_far_from_the_prior_converge(inference, batch):
    found = inference.solve(3.0 * batch)
    assert found.converged.mean() > 0.95
    assert found.iterations.max() > 3  # it was no easy problem
    assert (found.gradient_norm[found.converged] <= 1e-6).all()


def test_gradient_is_that_of_the_cost(inference, batch, rng):
    """The point is a minimum: the cost rises to second order along any direction."""
    x = inference.map(batch[:1], rel_tolerance=1e-11)
    direction = rng.standard_normal(24)
    hessian = lambda h: inference.solve(batch[:1], start=x + h * direction, max_iter=0).cost[0]  # noqa: E731
    rise = [hessian(h) - hessian(0.0) for h in (1e-2, 5e-3)]
    assert min(rise) > 0
    assert rise[0] / rise[1] == pytest.approx(4.0, abs=0.1)


class Broken:
    """A network that gives NaN away from the origin."""

    def __init__(self, latent):
        self._latent = latent

    def __getattr__(self, name):
        return getattr(self._latent, name)

    def linearize(self, x):
        at = self._latent.linearize(x)
        at.value = np.where(np.linalg.norm(x, axis=-1, keepdims=True) > 0.5, np.nan, at.value)
        return at


def test_network_that_gives_nan_is_left_unconverged(inference, batch):
    b = batch[:3] @ np.zeros((50, 30)) + 10.0
    found = solve(Broken(inference.dino.latent_map), np.eye(30), b, np.zeros((3, 24)), rel_tolerance=1e-9, max_iter=50)
    assert not found.converged.any()
    assert np.isfinite(found.x).all()
    assert np.isfinite(found.cost).all()


def test_what_has_no_noise_of_its_own_is_refused(inference, confusion_dino):
    states = dataclasses.replace(confusion_dino, fingerprint={**confusion_dino.fingerprint, WHOLE_STATE: {}})
    with pytest.raises(InputError, match="dino: gives whole states; train one of pointwise observables"):
        hd.ReducedInference(states, 1.0)
    with pytest.raises(InputError, match="dino: gives whole states"):
        hd.oed.InformationGain(states, 1.0, n_draws=2)


def test_data_far_more_precise_than_the_prior(rng):
    """Largest eigenvalues of 1e8, which single precision alone does not survive."""
    network = ReducedDense(40, 20, hidden=(60,), activation="tanh")
    weights = [rng.standard_normal(shape) / np.sqrt(2 * shape[0]) for shape in network.weight_shapes()]
    f, L = network.latent_map(weights), 1e4 * np.eye(20)
    x = 0.3 * rng.standard_normal((16, 40))
    b = f.value(x) @ L + rng.standard_normal((16, 20))
    assert np.linalg.svd(L.T @ f.jacobian(x[0]))[1][0] ** 2 > 3e7
    found = solve(f, L, b, np.zeros_like(x), rel_tolerance=1e-6, max_iter=100)
    assert found.converged.all()
    assert found.cost.max() < 200


def test_what_does_not_converge_is_named(inference, batch):
    with pytest.raises(SolveError, match=r"data: \d+ of 70 data sets did not converge, first those of index \[0, 1"):
        inference.map(batch, start=np.zeros((70, 24)), max_iter=1)


def test_file_round_trip(inference, batch, confusion_dino, tmp_path, run_python):
    variance = np.linspace(1.0, 2.0, confusion_dino.input_basis.dim)
    inference = hd.ReducedInference(confusion_dino, inference.noise_covariance, prior_variance=variance)
    inference.save(tmp_path / "online.dino")
    with pytest.raises(InputError, match=r"path: .* exists; pass overwrite=True"):
        inference.save(tmp_path / "online.dino")
    loaded = hd.ReducedInference.load(tmp_path / "online.dino")
    np.testing.assert_array_equal(loaded.map(batch), inference.map(batch))
    np.testing.assert_array_equal(loaded.prior_variance, variance)
    assert hd.DINO.load(tmp_path / "online.dino").fingerprint == confusion_dino.fingerprint
    np.save(tmp_path / "data.npy", batch[:2])
    code = f"""
import sys, numpy as np
import hippylib_dino as hd
inference = hd.ReducedInference.load({str(tmp_path / "online.dino")!r})
np.save({str(tmp_path / "x.npy")!r}, inference.map(np.load({str(tmp_path / "data.npy")!r})))
for name in ("dolfin", "hippylib", "keras", "tensorflow", "matplotlib", "scipy.stats"):
    assert name not in sys.modules, name
"""
    run_python(code)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), inference.map(batch[:2]), rtol=1e-9, atol=1e-12)


def test_file_without_noise_is_refused(confusion_dino, tmp_path):
    confusion_dino.save(tmp_path / "plain.dino")
    with pytest.raises(ModelFileError, match="is a DINO without noise covariance"):
        hd.ReducedInference.load(tmp_path / "plain.dino")


def test_bad_input_is_named(inference, confusion_dino, batch):
    with pytest.raises(InputError, match=r"data: expected shape \(50,\) or \(n, 50\), got \(3,\)"):
        inference.map(np.zeros(3))
    with pytest.raises(InputError, match="data: has values that are not finite"):
        inference.map(np.full(50, np.nan))
    missing = np.ma.masked_array(batch[:2], mask=np.arange(100).reshape(2, 50) == 7)
    for ask in (inference.map, inference.solve):
        with pytest.raises(InputError, match="data: is a masked array, and 1 of its values are masked"):
            ask(missing)
    unmasked = np.ma.masked_array(batch[0])
    np.testing.assert_array_equal(inference.map(unmasked), inference.map(batch[0]))
    with pytest.raises(InputError, match=r"start: expected shape \(70, 24\)"):
        inference.map(batch, start=np.zeros(24))
    with pytest.raises(InputError, match="rel_tolerance: expected > 0"):
        inference.map(batch, rel_tolerance=0.0)
    with pytest.raises(InputError, match=r"x: expected shape \(24,\) or \(n, 24\), got \(3,\)"):
        inference.laplace(np.zeros(3))
    with pytest.raises(InputError, match="n_samples: expected at least 1, got 0"):
        inference.laplace(np.zeros(24)).sample(0, np.random.default_rng(0))
    with pytest.raises(InputError, match="prior_variance: was not given"):
        inference.pointwise_variance(inference.laplace(np.zeros(24)))
    with pytest.raises(InputError, match="prior_variance: expected shape"):
        hd.ReducedInference(confusion_dino, 1.0, prior_variance=np.ones(3))
    with pytest.raises(MisfitError, match="noise covariance: expected a scalar"):
        hd.ReducedInference(confusion_dino, np.ones(3))
    with pytest.raises(InputError, match="noise_covariance: expected one of 50 observables, got one of 3"):
        hd.ReducedInference(confusion_dino, hd.NoiseCovariance(1.0, 3))

"""What the PDE says of a surrogate's answer."""

import dataclasses

import dolfin as dl
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import FingerprintError, InputError, VectorError
from hippylib_dino.modeling.spaces import map_block, owned_values, set_owned_values
from hippylib_dino.surrogate.certification import certify, certify_laplace
from hippylib_dino.surrogate.metric import latent_posterior
from tests.problems import observe_truth, solve_map


def norm(apply, vector):
    """√(vᵀ A v)."""
    image = vector.copy()
    apply(vector, image)
    return np.sqrt(vector.inner(image))


def gauss_newton(model, x):
    """The Hessian of `model` at a point with state and adjoint."""
    model.solveAdj(x[hp.ADJOINT], x)
    model.setPointForHessianEvaluations(x, gauss_newton_approx=True)
    return hp.ReducedHessian(model)


@pytest.fixture(scope="module")
def linear(models, surrogates):
    """The linear problem, its exact surrogate, the MAP point."""
    model, surrogate = models["linear"], surrogates["linear surrogate"]
    observe_truth(model)
    return model, surrogate, solve_map(model)[0]


@pytest.fixture(scope="module")
def nonlinear(models, surrogates):
    """The nonlinear problem, its surrogate, the MAP points of both."""
    model, surrogate = models["confusion"], surrogates["confusion surrogate"]
    observe_truth(model)
    return model, surrogate, solve_map(model)[0], solve_map(surrogate)[0]


def with_weights(model, dino, change):
    """A surrogate with changed weights."""
    changed = dataclasses.replace(dino, weights=[change(w.copy()) for w in dino.weights])
    return hd.SurrogateModel(changed, model.prior, model.misfit)


# ---- the metric --------------------------------------------------------------------------


@pytest.mark.parametrize("approximation", [True, False])
def test_latent_posterior_inverts_the_surrogates_hessian(nonlinear, approximation, rng):
    _, surrogate, _, solution = nonlinear
    posterior = latent_posterior(surrogate, solution[hp.PARAMETER], gauss_newton_approx=approximation)
    surrogate.setPointForHessianEvaluations(solution, gauss_newton_approx=approximation)
    hessian = hp.ReducedHessian(surrogate)
    v, Hv, back = (surrogate.generate_vector(hp.PARAMETER) for _ in range(3))
    set_owned_values(v, rng.standard_normal(v.local_size()))
    hessian.mult(v, Hv)
    posterior.Hlr.solve(back, Hv)
    np.testing.assert_allclose(owned_values(back), owned_values(v), rtol=0, atol=1e-8)
    assert (np.diff(posterior.d) <= 0).all()


# ---- one solve and one adjoint -----------------------------------------------------------


def test_distance_on_a_linear_problem_is_the_true_one(linear):
    model, surrogate, exact = linear
    displacement = hd.data.draw_parameter(model.prior, 3, 0)
    displacement.axpy(-1.0, model.prior.mean)
    m = exact[hp.PARAMETER].copy()
    m.axpy(0.3, displacement)
    found = certify(surrogate, model, m)
    hessian = gauss_newton(model, exact)
    assert found.distance == pytest.approx(0.3 * norm(hessian.mult, displacement), rel=1e-6)
    # of a quadratic cost the Newton decrement is the excess
    assert found.excess_cost == pytest.approx(found.cost.total - model.cost(exact)[0], rel=1e-6)
    assert found.surrogate_cost.total == pytest.approx(found.cost.total, rel=1e-6)
    assert found.jacobian_error < 1e-6
    assert found.observable_error < 1e-6
    assert (found.n_forward, found.n_adjoint) == (1, 1)
    # and its step is the MAP point
    expected = owned_values(exact[hp.PARAMETER])
    np.testing.assert_allclose(owned_values(found.corrected), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_distance_bounds_every_linear_functional(linear, rng):
    """|wᵀ(m - m_MAP)| ≤ distance √(wᵀ H⁻¹ w), with equality for one w."""
    model, surrogate, exact = linear
    displacement = hd.data.draw_parameter(model.prior, 3, 1)
    displacement.axpy(-1.0, model.prior.mean)
    m = exact[hp.PARAMETER].copy()
    m.axpy(1.0, displacement)
    distance = certify(surrogate, model, m).distance
    covariance = latent_posterior(surrogate, m).Hlr
    steepest, z = m.copy(), m.copy()
    gauss_newton(model, exact).mult(displacement, steepest)
    covariance.solve(z, steepest)
    assert abs(steepest.inner(displacement)) == pytest.approx(distance * np.sqrt(steepest.inner(z)), rel=1e-6)
    w = m.copy()
    for _ in range(5):
        set_owned_values(w, rng.standard_normal(w.local_size()))
        covariance.solve(z, w)
        assert abs(w.inner(displacement)) < distance * np.sqrt(w.inner(z))


def test_map_of_the_exact_surrogate_is_trusted(linear):
    model, surrogate, _ = linear
    found = certify(surrogate, model, solve_map(surrogate)[0])
    assert found.trusted
    assert found.reason == ""
    assert found.distance < 1e-5
    assert found.gradient_norm < 1e-5


def test_informed_directions_are_the_trace_of_the_data_resolution(linear):
    """n = tr(J C_post Jᵀ Γ⁻¹)."""
    model, surrogate, exact = linear
    m = exact[hp.PARAMETER]
    J = model.jacobian(m).to_dense()
    covariance = map_block(latent_posterior(surrogate, m).Hlr.solve, m, m, np.eye(m.size()))
    expected = np.trace(J @ covariance @ J.T @ np.linalg.inv(model.noise_covariance.to_dense()))
    assert certify(surrogate, model, m).informed_directions == pytest.approx(expected, rel=1e-6)


def test_distance_of_a_network_is_near_the_true_one(nonlinear):
    model, surrogate, exact, solution = nonlinear
    found = certify(surrogate, model, solution)
    difference = solution[hp.PARAMETER] - exact[hp.PARAMETER]
    true = norm(gauss_newton(model, exact).mult, difference)
    assert 1 / 1.5 < found.distance / true < 1.5
    cost = model.cost([model.solveState(solution[hp.PARAMETER]), solution[hp.PARAMETER], None])
    assert [found.cost.total, found.cost.regularization, found.cost.misfit] == pytest.approx(cost)
    assert found.surrogate_cost.total == pytest.approx(surrogate.cost(solution)[0])
    assert certify(surrogate, model, solution, threshold=1.01 * found.relative_distance).trusted
    refused = certify(surrogate, model, solution, threshold=0.99 * found.relative_distance)
    assert not refused.trusted
    assert "posterior standard deviations per informed direction > " in refused.reason


def test_gradient_norm_is_that_of_the_prior_covariance(nonlinear):
    model, surrogate, _, solution = nonlinear
    m = solution[hp.PARAMETER]
    x = [model.solveState(m), m, model.generate_vector(hp.ADJOINT)]
    model.solveAdj(x[hp.ADJOINT], x)
    g = model.generate_vector(hp.PARAMETER)
    model.evalGradientParameter(x, g)
    residual = surrogate.noise_covariance.solve(surrogate.value(model.prior.mean) - owned_values(model.misfit.d))
    start = surrogate.vjp(model.prior.mean, residual)
    apply = lambda v, out: model.prior.Rsolver.solve(out, v)  # noqa: E731
    assert certify(surrogate, model, solution).gradient_norm == pytest.approx(norm(apply, g) / norm(apply, start))


def test_summary_fits_a_screen(nonlinear):
    model, surrogate, _, solution = nonlinear
    text = str(certify(surrogate, model, solution, threshold=1e-6))
    assert "NOT trusted" in text
    assert "PDE solves: 1 forward, 1 adjoint" in text
    assert len(text.splitlines()) < 25
    assert max(map(len, text.splitlines())) <= 120


# ---- what must not be trusted ------------------------------------------------------------


def test_jacobian_that_hides_the_distance_is_refused(linear, linear_dino):
    """A surrogate whose outputs are four times too large takes any gradient of the PDE for a small displacement."""
    model, _, exact = linear
    wrong = with_weights(model, linear_dino, lambda w: 4.0 * w)
    found = certify(wrong, model, exact[hp.PARAMETER], threshold=1e9)
    assert not found.trusted
    assert found.jacobian_error == pytest.approx(3.0, rel=1e-6)
    assert "Jacobian is off by 300%" in found.reason


def test_network_that_is_not_finite_is_reported(nonlinear, confusion_dino):
    model, _, _, solution = nonlinear

    def nan(w):
        w.flat[0] = np.nan
        return w

    found = certify(with_weights(model, confusion_dino, nan), model, solution)
    assert not found.trusted
    assert "the surrogate at this point: the network gave values that are not finite" in found.reason
    assert np.isfinite(found.cost.total)  # the PDE was asked all the same
    assert np.isnan(found.distance)
    assert "NOT trusted" in str(found)


def test_failed_pde_solve_is_reported(nonlinear, monkeypatch):
    model, surrogate, _, solution = nonlinear

    def fail(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(model.problem, "solveFwd", fail)
    found = certify(surrogate, model, solution)
    assert not found.trusted
    assert found.reason == "the PDE at this point: the forward solve failed: out of luck"
    assert np.isnan(found.cost.total)
    assert np.isfinite(found.surrogate_cost.total)


def test_arguments_of_the_wrong_kind_are_named(nonlinear, models):
    model, surrogate, _, solution = nonlinear
    with pytest.raises(InputError, match=r"surrogate: expected an hd.SurrogateModel, got JacobianModel"):
        certify(model, surrogate, solution)
    with pytest.raises(InputError, match=r"model: expected an hd.JacobianModel, got Model"):
        certify(surrogate, hp.Model(model.problem, model.prior, model.misfit), solution)
    with pytest.raises(InputError, match=r"x: expected \[u, m, p\] or a dolfin vector of parameters, got ndarray"):
        certify(surrogate, model, np.zeros(289))
    with pytest.raises(InputError, match=r"got a list of 1"):
        certify(surrogate, model, solution[:1])
    with pytest.raises(InputError, match=r"threshold: expected > 0, got 0"):
        certify(surrogate, model, solution, threshold=0)
    with pytest.raises(VectorError, match=r"x: expected a vector of size 289"):
        certify(surrogate, model, models["linear"].prior.mean)
    with pytest.raises(FingerprintError, match=r"surrogate: its DINO was made for another parameter space"):
        certify(surrogate, models["linear"], models["linear"].prior.mean)


def test_surrogate_with_other_data_is_named(nonlinear, confusion_dino):
    model, _, _, solution = nonlinear
    other = hp.DiscreteStateObservation(
        model.misfit.B, data=model.misfit.d.copy(), noise_variance=model.misfit.noise_variance
    )
    surrogate = hd.SurrogateModel(confusion_dino, model.prior, other)
    certify(surrogate, model, solution)  # other objects, equal values
    other.d.axpy(1e-3, model.misfit.d)
    with pytest.raises(InputError, match=r"surrogate, model: expected one data vector and one noise covariance"):
        certify(surrogate, model, solution)


def test_prior_with_another_mean_is_named(nonlinear):
    from applications import confusion

    model, surrogate, _, solution = nonlinear
    prior = confusion.build(hd.sample_communicator(), mesh_size=16).prior
    prior.mean = dl.interpolate(dl.Constant(0.01), prior.Vh).vector()
    other = hd.JacobianModel(model.problem, prior, model.misfit)
    with pytest.raises(FingerprintError, match=r"another prior: mean"):
        certify(surrogate, other, solution)


# ---- Laplace -----------------------------------------------------------------------------


def test_laplace_of_the_exact_surrogate_needs_no_correction(linear):
    model, surrogate, exact = linear
    found = certify_laplace(surrogate, model, exact, k=9)
    np.testing.assert_allclose(found.relative_change, 0, atol=1e-5)
    assert (found.n_forward, found.n_linearized) == (1, 9)


def test_laplace_is_corrected_towards_the_pdes(nonlinear):
    """Ritz values are below the eigenvalues, and nearer to them than the surrogate's."""
    model, surrogate, _, solution = nonlinear
    m, k = solution[hp.PARAMETER], 12
    found = certify_laplace(surrogate, model, solution, k=k)
    x = [model.solveState(m), m, model.generate_vector(hp.ADJOINT)]
    model.solveAdj(x[hp.ADJOINT], x)
    expected = hd.laplace(model, x).d[:k]
    assert (found.eigenvalues <= expected * (1 + 1e-6)).all()
    before = np.abs(found.surrogate_eigenvalues / expected - 1)[:6].mean()
    after = np.abs(found.eigenvalues / expected - 1)[:6].mean()
    assert after < 0.3 * before
    assert "12 leading eigenvalues" in str(found)


def test_corrected_posterior_is_a_posterior(nonlinear):
    """Uᵀ R U = I, eigenvalues descending, and the PDE's Rayleigh quotients in the directions asked about."""
    model, surrogate, _, solution = nonlinear
    posterior = certify_laplace(surrogate, model, solution, k=12).posterior
    U = np.stack([owned_values(posterior.U[j]) for j in range(24)], axis=1)
    RU = map_block(lambda out, v: model.prior.R.mult(v, out), posterior.mean, posterior.mean, U)
    np.testing.assert_allclose(U.T @ RU, np.eye(24), atol=1e-8)
    assert (np.diff(posterior.d) <= 0).all()
    columns = model.jacobian(posterior.mean).mult_block(U[:, :6])
    quotients = np.diag(model.data_space.inner(columns, columns))
    np.testing.assert_allclose(quotients, posterior.d[:6], rtol=1e-6)


def test_k_out_of_range_is_named(nonlinear):
    model, surrogate, _, solution = nonlinear
    with pytest.raises(InputError, match=r"k: expected 1 .. 24, the rank of the surrogate's input basis, got 25"):
        certify_laplace(surrogate, model, solution, k=25)


# ---- several ranks -----------------------------------------------------------------------

ON_RANKS = """
import dolfin as dl
import hippylib as hp
import numpy as np
import hippylib_dino as hd
from applications import confusion
from hippylib_dino.surrogate.certification import certify, certify_laplace
from hippylib_dino.surrogate.refinement import refine
dl.set_log_level(dl.LogLevel.ERROR)
comm = hd.sample_communicator(None)
model = confusion.build(comm, mesh_size=16)
data, m = (np.load({folder!r} + name) for name in ("/data.npy", "/m.npy"))
first, last = model.misfit.d.local_range()
hd.modeling.set_owned_values(model.misfit.d, data[first:last])
order = hd.modeling.DofOrder(model.prior.Vh)
x = model.generate_vector(hp.PARAMETER)
hd.modeling.set_owned_values(x, order.from_array(m))
surrogate = hd.SurrogateModel(hd.DINO.load({folder!r} + "/a.dino"), model.prior, model.misfit)
found = certify(surrogate, model, x)
corrected = certify_laplace(surrogate, model, x, k=5)
exact = refine(surrogate, model, x, rel_tolerance=1e-8)
whole = order.to_array(hd.modeling.owned_values(exact[hp.PARAMETER]))
if comm.rank == 0:
    numbers = [found.cost.total, found.gradient_norm, found.distance, found.observable_error, found.jacobian_error]
    np.savez({folder!r} + f"/{{comm.size}}.npz", numbers=numbers, eigenvalues=corrected.eigenvalues, map=whole,
             converged=exact.converged)
"""


def test_certify_and_refine_do_not_depend_on_the_partition(run_python, nonlinear, confusion_dino, tmp_path):
    model, _, exact, solution = nonlinear
    order = hd.modeling.DofOrder(model.prior.Vh)
    np.save(tmp_path / "data.npy", owned_values(model.misfit.d))
    np.save(tmp_path / "m.npy", order.to_array(owned_values(solution[hp.PARAMETER])))
    confusion_dino.save(tmp_path / "a.dino")
    for ranks in (1, 2):
        run_python(ON_RANKS.format(folder=str(tmp_path)), ranks=ranks)
    one, two = (np.load(tmp_path / f"{ranks}.npz") for ranks in (1, 2))
    np.testing.assert_allclose(two["numbers"], one["numbers"], rtol=1e-6)
    np.testing.assert_allclose(two["eigenvalues"], one["eigenvalues"], rtol=1e-6)
    expected = order.to_array(owned_values(exact[hp.PARAMETER]))
    for run in (one, two):
        assert run["converged"]
        np.testing.assert_allclose(run["map"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())

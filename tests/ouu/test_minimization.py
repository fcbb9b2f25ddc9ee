"""The optimal control: closed forms, both methods, bounds, constraints, resuming, warnings, bad input."""

import itertools
import warnings

import numpy as np
import pytest
from scipy.optimize import LinearConstraint
from scipy.stats import norm

from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.network import Polynomial
from hippylib_dino.ouu import (
    CVaR,
    Entropic,
    Expectation,
    ExtrapolationWarning,
    L1Penalty,
    L2Penalty,
    LatentQuadratic,
    MeanVariance,
    Objective,
    SmoothingWarning,
    SurrogateEnsemble,
    WorstCase,
    minimize,
)
from hippylib_dino.ouu.journal import Journal
from tests.ouu.ensembles import Analytic, affine, box, network

METHODS = ("L-BFGS-B", "trust-constr")


def solve(objective, start=None, **options):
    start = np.zeros(objective.ensemble.n_control) if start is None else start
    return minimize(objective, start, **{"progress": False, **options})


# ---- linear-quadratic Gaussian problems ----------------------------------------------------


class LinearQuadratic:
    """u = shift + A x + B z, Q = ½‖u‖², x ~ N(0, I): with a = shift + B z and S = AAᵀ,

    E[Q] = ½‖a‖² + ½ tr S,  Var[Q] = aᵀSa + ½ tr S²,  ln E[exp(θQ)]/θ = ½ aᵀ(I - θS)⁻¹a - ½ ln det(I - θS)/θ.
    """

    def __init__(self):
        rng = np.random.default_rng(5)
        self.A, self.B, self.shift = 0.5 * rng.standard_normal((6, 2)), rng.standard_normal((6, 3)), np.ones(6)
        self.S = self.A @ self.A.T

    def optimum(self, metric, alpha):
        """Of ½ aᵀ metric a + ½ α‖z‖²."""
        left = self.B.T @ metric @ self.B + alpha * np.eye(3)
        return np.linalg.solve(left, -self.B.T @ metric @ self.shift)

    def ensemble(self, x):
        return affine(self.A, self.B, self.shift, box(-1.0, 2.0, 3)[1], LatentQuadratic(0.0, np.zeros(6), np.eye(6)), x)


GAUSSIAN = LinearQuadratic()
SIGMA = np.sqrt(2) * np.vstack([np.eye(2), -np.eye(2)])  # mean 0, covariance I, third moments 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("beta", [0.0, 0.8, 5.0])
def test_mean_variance_optimum(method, beta):
    """Exact at points of mean 0, covariance I and vanishing third moments, as only these depend on z."""
    objective = Objective(GAUSSIAN.ensemble(SIGMA), MeanVariance(beta), [L2Penalty(0.1)])
    found = solve(objective, method=method, tolerance=1e-9)
    np.testing.assert_allclose(found.z, GAUSSIAN.optimum(np.eye(6) + 2 * beta * GAUSSIAN.S, 0.1), atol=1e-7)
    assert found.converged
    assert found.gradient_norm <= 1e-7 * found.history[0].gradient_norm


def test_expectation_optimum():
    found = solve(Objective(GAUSSIAN.ensemble(SIGMA), Expectation(), [L2Penalty(0.1)]), tolerance=1e-9)
    np.testing.assert_allclose(found.z, GAUSSIAN.optimum(np.eye(6), 0.1), rtol=1e-6)
    a = GAUSSIAN.shift + GAUSSIAN.B @ found.z
    assert found.risk == pytest.approx(0.5 * a @ a + 0.5 * np.trace(GAUSSIAN.S), rel=1e-12)
    assert found.value == pytest.approx(found.risk + 0.05 * found.z @ found.z, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_entropic_optimum(method):
    """At the points and weights of Gauss and Hermite."""
    theta = 0.3 / np.linalg.norm(GAUSSIAN.S, 2)
    points, w = np.polynomial.hermite_e.hermegauss(60)
    x = np.array([(a, b) for a in points for b in points])
    weights = np.outer(w, w).ravel() / w.sum() ** 2
    objective = Objective(GAUSSIAN.ensemble(x), Entropic(theta), [L2Penalty(0.1)], weights)
    found = solve(objective, method=method, tolerance=1e-9)
    metric = np.linalg.inv(np.eye(6) - theta * GAUSSIAN.S)
    np.testing.assert_allclose(found.z, GAUSSIAN.optimum(metric, 0.1), rtol=1e-5)
    a = GAUSSIAN.shift + GAUSSIAN.B @ found.z
    exact = 0.5 * a @ metric @ a - 0.5 * np.linalg.slogdet(np.eye(6) - theta * GAUSSIAN.S)[1] / theta
    assert found.risk == pytest.approx(exact, rel=1e-8)


def portfolio(n_radii=150, n_angles=60):
    """Q = gᵀz + σ xᵀz, normal for each z, from points of equal weight that are rotations of each other."""
    radii = np.sqrt(-2 * np.log1p(-(np.arange(n_radii) + 0.5) / n_radii))
    angles = 2 * np.pi * np.arange(n_angles) / n_angles
    x = (radii[:, None, None] * np.column_stack([np.cos(angles), np.sin(angles)])).reshape(-1, 2)
    linear, bent = np.zeros((1, 4)), np.zeros((1, 4, 4))
    _, basis = box(-3.0, 3.0, 2)
    scale = np.sqrt(12) / 6
    linear[0, 2:] = np.array([-1.0, 0.5]) / scale
    bent[0, 0, 2] = bent[0, 1, 3] = bent[0, 2, 0] = bent[0, 3, 1] = 0.2 / scale
    f = Polynomial(4, 1, degree=2).latent_map([np.zeros(1), linear, bent])
    return SurrogateEnsemble(f, basis, LatentQuadratic(0.0, np.ones(1)), x)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_cvar_optimum(method, joint):
    """gᵀz + κσ|z| + ½α|z|² is least at -(|g| - κσ)/α g/|g|, κ = φ(Φ⁻¹(β))/(1 - β)."""
    objective = Objective(portfolio(), CVaR(0.9, 0.05), [L2Penalty(0.5)], joint=joint)
    found = solve(objective, np.ones(2), method=method)
    g = np.array([-1.0, 0.5])
    kappa = norm.pdf(norm.ppf(0.9)) / 0.1
    length = (np.linalg.norm(g) - 0.2 * kappa) / 0.5
    np.testing.assert_allclose(found.z, -length * g / np.linalg.norm(g), rtol=0.01)
    assert len(found.auxiliary) == joint
    if joint:
        np.testing.assert_allclose(
            found.auxiliary, g @ found.z + 0.2 * norm.ppf(0.9) * np.linalg.norm(found.z), atol=0.03
        )
    assert found.converged


# ---- methods, bounds, constraints ----------------------------------------------------------


@pytest.mark.parametrize("joint", [False, True])
def test_smoothing_follows_the_quantity_to_any_scale(joint):
    """A scaled quantity has the same optimum; the width is reported, and a given one that dominates is a warning."""
    found = {}
    for scale in (1.0, 1e-8):
        ensemble = portfolio()
        ensemble.quantity_and_jacobian = lambda z, s=scale, f=ensemble.quantity_and_jacobian: [s * a for a in f(z)]
        objective = Objective(ensemble, CVaR(0.9), [L2Penalty(0.5 * scale)], joint=joint)
        found[scale] = solve(objective)
        q = ensemble.quantity_and_jacobian(found[scale].z)[0]
        assert found[scale].smoothing == pytest.approx(0.01 * q.std(), rel=1e-6)
    if not joint:  # whose t has the scale of q, which is not that of z
        np.testing.assert_allclose(found[1e-8].z, found[1.0].z, atol=2e-3)
        with pytest.warns(SmoothingWarning, match="dominates"):
            solve(Objective(ensemble, CVaR(0.9, 1.0), [L2Penalty(0.5 * scale)]))
        assert solve(Objective(ensemble, Expectation(), [L2Penalty(0.5 * scale)])).smoothing is None


RISKS = (Expectation(), MeanVariance(0.5), CVaR(0.8, 0.1), Entropic(0.3), WorstCase(0.3))


@pytest.mark.parametrize("risk", RISKS, ids=lambda r: type(r).__name__)
def test_both_methods_agree_within_bounds(risk):
    objective = Objective(Analytic(), risk, [L2Penalty(0.2)])
    bounds = np.array([0.1, -1.0, -np.inf]), np.array([0.2, 1.0, np.inf])
    start = np.array([0.15, 0.0, 0.0])
    one, two = (solve(objective, start, bounds=bounds, method=m, tolerance=1e-7) for m in METHODS)
    assert one.z[0] == pytest.approx(0.1, abs=1e-9)
    np.testing.assert_allclose(one.z, two.z, atol=2e-4)
    assert one.value == pytest.approx(two.value, rel=1e-6)
    for found in (one, two):
        assert ((found.z >= bounds[0] - 1e-12) & (found.z <= bounds[1] + 1e-12)).all()
        assert found.risk == pytest.approx(risk.value(objective.ensemble.quantity(found.z)), rel=1e-5)
    free = solve(objective)
    assert free.value < one.value
    for direction in np.random.default_rng(0).standard_normal((20, 3)):
        near = np.clip(one.z + 0.02 * direction, *bounds)
        assert objective.value_and_gradient(objective.start(near))[0] >= one.value - 1e-9


def test_start_on_a_bound():
    objective = Objective(Analytic(), Expectation(), [L2Penalty(0.2)])
    found = [solve(objective, bounds=(0.0, 1.0), method=method).z for method in METHODS]
    np.testing.assert_allclose(*found, atol=1e-4)


@pytest.mark.parametrize("risk", [Expectation(), CVaR(0.8, 0.1)], ids=["expectation", "cvar"])
def test_budget(risk):
    """A linear constraint that binds; the same problem without it has a lower value."""
    objective = Objective(Analytic(), risk, [L2Penalty(0.2)], joint=True)
    budget = LinearConstraint(np.ones((1, 3)), 1.0, 1.0)
    found = solve(objective, bounds=(-1, 1), constraints=[budget], method="trust-constr", tolerance=1e-8)
    assert found.converged
    assert found.z.sum() == pytest.approx(1.0, abs=1e-8)
    assert found.value > solve(objective, bounds=(-1, 1)).value
    _, gradient = objective.value_and_gradient(objective.start(found.z))
    inside = np.abs(found.z) < 0.99
    np.testing.assert_allclose(gradient[:3][inside], gradient[:3][inside].mean(), atol=1e-3)


def test_sparse_control():
    """A smooth l1 penalty drives entries to zero that do not pay."""
    ensemble = Analytic()
    found = solve(Objective(ensemble, Expectation(), [L1Penalty(2.0, 1e-3)]))
    assert np.count_nonzero(np.abs(found.z) < 5e-3) >= 1
    assert np.abs(found.z).sum() < np.abs(solve(Objective(ensemble, Expectation())).z).sum()


def test_history_and_counts(capsys):
    objective = Objective(network(), CVaR(0.8, 0.1), [L2Penalty(0.2)])
    found = minimize(objective, np.zeros(3), bounds=(-2, 3))
    assert "optimisation" in capsys.readouterr().err
    assert len(found.history) == found.n_iterations + 1
    np.testing.assert_array_equal(found.history[-1].z, found.z)
    assert found.history[-1].value == found.value
    assert found.n_evaluations >= found.history[-1].n_evaluations >= found.n_iterations
    values = [iterate.value for iterate in found.history]
    assert all(b <= a for a, b in itertools.pairwise(values))
    assert found.history[-1].gradient_norm < 1e-3 * found.history[0].gradient_norm
    assert found.outside is None
    stopped = solve(objective, bounds=(-2, 3), max_iterations=2)
    assert not stopped.converged
    assert "ITERATIONS" in stopped.message.upper()


def test_leaving_the_training_range_warns():
    objective = Objective(network(), Expectation(), [L2Penalty(1.0, reference=np.full(3, 9.0))])
    with pytest.warns(
        ExtrapolationWarning, match="outside of what the surrogate was trained on: UniformControl does not contain"
    ):
        found = solve(objective)
    assert "latent controls is +" in found.outside
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(objective, bounds=(-2.0, 3.0))


# ---- resuming ------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


class Counting(Analytic):
    """Counts evaluations, and may break off."""

    def __init__(self, limit=np.inf):
        super().__init__()
        self.count, self.limit = 0, limit

    def quantity_and_jacobian(self, z):
        self.count += 1
        if self.count > self.limit:
            raise Interrupted
        return super().quantity_and_jacobian(z)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cut", [0, 11])
def test_resumed_run_is_the_uninterrupted_one(method, cut, tmp_path):
    """Also where the kill cut a record short."""
    settings = {"method": method, "bounds": (-0.1, 2.0)}
    whole = solve(Objective(Counting(), CVaR(0.8, 0.1), joint=True), **settings)
    path = tmp_path / "iterates"
    with pytest.raises(Interrupted):
        solve(Objective(Counting(limit=9), CVaR(0.8, 0.1), joint=True), path=path, **settings)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut])
    ensemble = Counting()
    found = solve(Objective(ensemble, CVaR(0.8, 0.1), joint=True), path=path, resume=True, **settings)
    np.testing.assert_array_equal(found.z, whole.z)
    assert found.value == whole.value
    assert [i.value for i in found.history] == [i.value for i in whole.history]
    again = Counting()
    solve(Objective(again, CVaR(0.8, 0.1), joint=True), path=path, resume=True, **settings)
    assert again.count <= 3  # the last answer is computed anew, nothing else


def test_resume_without_a_file_begins(tmp_path):
    path = tmp_path / "iterates"
    first = solve(Objective(Analytic(), Expectation()), path=path, resume=True)
    assert path.exists()
    np.testing.assert_array_equal(first.z, solve(Objective(Analytic(), Expectation())).z)


def test_iterates_of_another_problem_are_refused(tmp_path):
    path = tmp_path / "iterates"
    solve(Objective(Analytic(), Expectation()), path=path)
    with pytest.raises(InputError, match="exists; pass resume=True"):
        solve(Objective(Analytic(), Expectation()), path=path)
    with pytest.raises(InputError, match="another method, risk, start or bounds"):
        solve(Objective(Analytic(), MeanVariance()), path=path, resume=True)
    with pytest.raises(InputError, match="iterates of another problem"):
        solve(Objective(Analytic(), Expectation()), np.ones(3), path=path, resume=True)
    with pytest.raises(InputError, match="iterates of another problem"):
        solve(Objective(Analytic(seed=1), Expectation()), path=path, resume=True)
    path.write_bytes(b"something else")
    with pytest.raises(InputError, match="holds no iterates"):
        solve(Objective(Analytic(), Expectation()), path=path, resume=True)


def test_rank_that_does_not_write_reads(tmp_path):
    path, answer = tmp_path / "iterates", np.ones(2)
    silent = Journal(path, resume=False, settings={}, writes=False)
    silent.ask(np.zeros(1), lambda: answer)
    assert not path.exists()
    Journal(path, resume=False, settings={}).ask(np.zeros(1), lambda: answer)
    again = Journal(path, resume=True, settings={}, writes=False)
    assert again.replays
    np.testing.assert_array_equal(again.ask(np.zeros(1), lambda: answer), answer)


# ---- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": (1, -1)}, "bounds: inverted at 3 of 3 controls, first at 0: lower 1 > upper -1"),
        ({"bounds": (np.array([0, 2, 0]), 1.0)}, "bounds: inverted at 1 of 3 controls, first at 1"),
        ({"bounds": (np.zeros(4), 1.0)}, r"bounds: expected a pair .* of arrays \(3,\)"),
        ({"bounds": 3.0}, "bounds: expected a pair"),
        ({"bounds": (np.nan, 1.0)}, "bounds: leave no control"),
        ({"bounds": (np.inf, np.inf)}, "bounds: leave no control"),
        ({"bounds": (1, 2)}, r"start: outside of the bounds at 3 of 3 controls, first at 0: 0 is not in \[1, 2\]"),
        ({"start": np.zeros(4)}, r"start: expected shape \(3,\)"),
        ({"start": np.array([0, np.nan, 0])}, "start: 1 of 3 entries are not finite"),
        ({"method": "BFGS"}, "method: expected one of"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"constraints": [LinearConstraint(np.ones((1, 3)), 0, 1)]}, 'constraints: expected method="trust-constr"'),
        (
            {"constraints": [LinearConstraint(np.ones((1, 4)), 0, 1)], "method": "trust-constr"},
            "constraints: expected matrices of 3 columns",
        ),
        (
            {"constraints": [LinearConstraint(np.ones(3), 4, 9)], "method": "trust-constr", "bounds": (0, 1)},
            "constraints: infeasible: no control within the bounds",
        ),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(InputError, match=message):
        solve(Objective(Analytic(), Expectation()), **options)


def test_failure_of_the_quantity_keeps_what_was_evaluated(tmp_path):
    class Fails(Counting):
        def quantity_and_jacobian(self, z):
            q, J = super().quantity_and_jacobian(z)
            return (q if self.count < 4 else q * np.nan), J

    path = tmp_path / "iterates"
    with pytest.raises(SolveError, match="not finite at 40 of 40 samples"):
        solve(Objective(Fails(), Expectation()), path=path)
    ensemble = Counting()
    solve(Objective(ensemble, Expectation()), path=path, resume=True)
    whole = Counting()
    solve(Objective(whole, Expectation()))
    assert ensemble.count == whole.count - 2  # three evaluations are there, one of them is tried anew

"""Quantities of the latent state, ensembles, penalties, the objective: derivatives, chunks, bad input."""

import numpy as np
import pytest

from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.network import DINO, Polynomial, ReducedDense
from hippylib_dino.network.latent_map import BlockMap
from hippylib_dino.ouu import (
    CVaR,
    Entropic,
    Expectation,
    L1Penalty,
    L2Penalty,
    LatentQuadratic,
    MeanVariance,
    Objective,
    SurrogateEnsemble,
    WorstCase,
    ensembles,
)
from hippylib_dino.reduction.basis import Basis, joint_basis
from tests.ouu.ensembles import Analytic, affine, box, network, quadratic

ENSEMBLES = {"network": network, "analytic": Analytic}
RISKS = (Expectation(), MeanVariance(0.5), CVaR(0.7, 1.5), Entropic(0.3), WorstCase(1.0))


def slope(steps, remainder):
    return np.polyfit(np.log(steps), np.log(np.abs(remainder)), 1)[0]


def basis(dim, rank, rng, shift=True):
    decoder = rng.standard_normal((dim, rank))
    return Basis(
        decoder, np.linalg.pinv(decoder).T, shift * rng.standard_normal(dim), 2.0 ** -np.arange(rank), "pod", "mass"
    )


# ---- quantities ----------------------------------------------------------------------------


def test_quadratic_and_its_derivatives(rng):
    Q, y, v = quadratic(4), rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    value, gradient = Q.value_and_gradient(y)
    for i in range(3):
        expected = Q.constant + Q.gradient @ y[i] + 0.5 * y[i] @ Q.hessian @ y[i]
        assert Q.value(y[i]) == pytest.approx(expected)
        assert value[i] == pytest.approx(expected)
    np.testing.assert_allclose(
        Q.value(y + v), value + (gradient * v).sum(1) + 0.5 * (v * Q.hessian_action(y, v)).sum(1), rtol=1e-12
    )


def test_reduction_is_exact_for_tracking(rng):
    """½‖u - u_d‖²_M, whatever the state in the basis."""
    root, target = rng.standard_normal((12, 12)), rng.standard_normal(12)
    mass, space = root @ root.T, basis(12, 4, rng)
    Q = LatentQuadratic.reduce(lambda u: 0.5 * (u - target) @ mass @ (u - target), lambda u: mass @ (u - target), space)
    y = 10 * rng.standard_normal((5, 4))
    exact = [0.5 * (u - target) @ mass @ (u - target) for u in space.decode(y)]
    np.testing.assert_allclose(Q.value(y), exact, rtol=1e-10)
    np.testing.assert_allclose(Q.hessian, space.decoder.T @ mass @ space.decoder, rtol=1e-8)


def test_reduction_of_a_linear_quantity(rng):
    w, space = rng.standard_normal(12), basis(12, 4, rng)
    Q = LatentQuadratic.reduce(lambda u: w @ u, lambda u: w, space)
    np.testing.assert_array_equal(Q.hessian, 0)
    assert Q.value(np.ones(4)) == pytest.approx(w @ space.decode(np.ones(4)))


@pytest.mark.parametrize(
    ("value", "gradient", "message"),
    [
        (lambda u: (u**3).sum(), lambda u: 3 * u**2, "at most quadratic"),
        (lambda u: np.exp(u).sum(), np.exp, "at most quadratic"),
        (lambda u: (u**2).sum(), lambda u: u, "Check the gradient"),
        (lambda u: (u**2).sum(), lambda u: 2 * u[:3], r"gradient: expected to return shape \(12,\)"),
    ],
)
def test_what_cannot_be_reduced_is_refused(value, gradient, message, rng):
    with pytest.raises(InputError, match=message):
        LatentQuadratic.reduce(value, gradient, basis(12, 4, rng))


def test_bad_quadratic():
    with pytest.raises(InputError, match=r"hessian: expected shape \(2, 2\)"):
        LatentQuadratic(0.0, np.zeros(2), np.eye(3))
    with pytest.raises(InputError, match=r"gradient: expected shape \(rQ,\)"):
        LatentQuadratic(0.0, np.eye(2))
    with pytest.raises(InputError, match="finite"):
        LatentQuadratic(np.inf, np.zeros(2))


# ---- ensembles -----------------------------------------------------------------------------


@pytest.fixture(params=ENSEMBLES)
def ensemble(request):
    return ENSEMBLES[request.param]()


def test_ensemble_taylor_rates(ensemble, rng):
    z, v = rng.standard_normal((2, 3))
    steps = 2.0 ** -np.arange(6, 12)
    q, J = ensemble.quantity_and_jacobian(z)
    np.testing.assert_allclose(ensemble.quantity(z), q, rtol=1e-13)
    bend = ensemble.hessian_actions(z, v) @ v
    change = np.array([ensemble.quantity(z + h * v) - q for h in steps])
    first = change - steps[:, None] * (J @ v)
    second = first - steps[:, None] ** 2 / 2 * bend
    rates = [slope(steps, np.linalg.norm(r, axis=1)) for r in (change, first, second)]
    assert rates == pytest.approx([1, 2, 3], abs=0.1)
    wrong = change - 1.01 * steps[:, None] * (J @ v)
    assert slope(steps, np.linalg.norm(wrong, axis=1)) < 1.7


def test_chunks_change_nothing(monkeypatch, rng):
    z, v = rng.standard_normal((2, 3))
    whole = network(n=50)
    expected = (*whole.quantity_and_jacobian(z), whole.hessian_actions(z, v))
    monkeypatch.setattr(ensembles, "CHUNK", 7)
    found = (*whole.quantity_and_jacobian(z), whole.hessian_actions(z, v))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_no_jacobian_of_the_network_is_formed(monkeypatch, rng):
    """One reverse sweep a sample, however many outputs."""
    from hippylib_dino.network.latent_map import _BlockLinearization

    def refuse(self):
        raise AssertionError("a Jacobian was formed")

    monkeypatch.setattr(_BlockLinearization, "jacobian", refuse)
    ensemble = network()
    ensemble.quantity_and_jacobian(np.zeros(3))
    ensemble.hessian_actions(np.zeros(3), np.ones(3))


def test_samples_are_taken_in_chunks(monkeypatch):
    """The network never sees more than a chunk, so that memory does not grow with the samples."""
    ensemble, seen, linearize = network(n=1000), [], BlockMap.linearize

    def watched(self, x):
        at = linearize(self, x)
        seen.append(len(at.value))
        return at

    monkeypatch.setattr(BlockMap, "linearize", watched)
    ensemble.quantity_and_jacobian(np.zeros(3))
    assert max(seen) <= ensembles.CHUNK < 1000
    assert sum(seen) == 1000


def test_affine_surrogate_is_the_affine_map(rng):
    A, B, shift = rng.standard_normal((5, 2)), rng.standard_normal((5, 3)), rng.standard_normal(5)
    Q, x, z = quadratic(5), rng.standard_normal((9, 2)), rng.standard_normal(3)
    ensemble = affine(A, B, shift, box(-1.0, 4.0, 3)[1], Q, x)
    y = shift + x @ A.T + B @ z
    np.testing.assert_allclose(ensemble.quantity(z), Q.value(y), rtol=1e-12)
    np.testing.assert_allclose(ensemble.quantity_and_jacobian(z)[1], Q.value_and_gradient(y)[1] @ B, rtol=1e-10)
    np.testing.assert_allclose(ensemble.hessian_actions(z, z)[0], B.T @ Q.hessian @ B @ z, rtol=1e-10)


def test_ensemble_of_a_dino(rng):
    """At parameters m and controls z in their own units it is Q of the DINO's latent output."""
    law, controls = box(-1.0, 4.0, 3)
    network = ReducedDense(2 + 3, 4, hidden=(8,))
    dino = DINO(
        network,
        [rng.standard_normal(shape) for shape in network.weight_shapes()],
        joint_basis(basis(12, 2, rng), controls),
        basis(9, 4, rng),
        {"control": law.get_config()},
    )
    m, z, Q = rng.standard_normal((5, 12)), rng.uniform(-1, 4, 3), quadratic(4)
    ensemble = SurrogateEnsemble.of_dino(dino, Q, dino.input_basis.parameter_part().encode(m))
    np.testing.assert_allclose(ensemble.quantity(z), Q.value(dino.latent_map.value(dino.latent(m, z))), rtol=1e-12)
    assert ensemble.outside(z) is None
    assert "UniformControl does not contain it; the 2. of 3 latent controls is +2" in ensemble.outside(
        np.array([0.0, 5.0, 1.0])
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((4, 3))}, r"x: expected shape \(n, 2\).* got \(4, 3\)"),
        ({"x": np.zeros((0, 2))}, r"x: expected shape \(n, 2\)"),
        ({"x": np.full((4, 2), np.nan)}, "x: expected finite"),
        ({"quantity": quadratic(3)}, "quantity: expected one of 4 latent outputs.* got one of 3"),
        ({"control_basis": box(0.0, 1.0, 4)[1]}, r"x: expected shape \(n, 1\)"),
    ],
)
def test_bad_ensemble(change, message):
    f = Polynomial(5, 4).latent_map([np.zeros(4), np.zeros((4, 5))])
    settings = {
        "latent_map": f,
        "control_basis": box(0.0, 1.0, 3)[1],
        "quantity": quadratic(4),
        "x": np.zeros((4, 2)),
    }
    with pytest.raises(InputError, match=message):
        SurrogateEnsemble(**{**settings, **change})


@pytest.mark.parametrize("z", [np.zeros(4), np.zeros((1, 3)), 0.0])
def test_control_of_the_wrong_size(z):
    ensemble = network()
    for ask in (ensemble.quantity, ensemble.quantity_and_jacobian, Objective(ensemble, Expectation()).start):
        with pytest.raises(InputError, match=r"z: expected shape \(3,\), one entry for each control variable, got"):
            ask(z)
    with pytest.raises(InputError, match="direction: expected shape"):
        ensemble.hessian_actions(np.zeros(3), z)


def test_control_that_is_not_finite():
    with pytest.raises(InputError, match="z: 1 of 3 entries are not finite"):
        network().quantity(np.array([0.0, np.nan, 1.0]))


# ---- penalties and the objective -----------------------------------------------------------

DIFFERENCES = np.diff(np.eye(3), axis=0)
PENALTIES = {
    "none": [],
    "L2": [L2Penalty(0.3)],
    "L2, mass": [L2Penalty(0.3, np.diag([1.0, 2.0, 3.0]), reference=np.ones(3))],
    "L1": [L1Penalty(0.5, 0.4)],
    "total variation": [L2Penalty(0.1), L1Penalty(0.5, 0.4, DIFFERENCES)],
}


@pytest.mark.parametrize("penalties", PENALTIES)
@pytest.mark.parametrize(
    ("risk", "joint"), [*((r, False) for r in RISKS), (CVaR(0.7, 1.5), True)], ids=lambda p: str(p).split("(")[0]
)
def test_objective_taylor_rates(ensemble, risk, joint, penalties, rng):
    objective = Objective(ensemble, risk, PENALTIES[penalties], joint=joint)
    x, v = objective.start(rng.standard_normal(3)), rng.standard_normal(objective.n_variables)
    x[3:] += 0.05  # not at the minimising t, where its derivative vanishes
    steps = 2.0 ** -np.arange(7, 13)
    value, gradient = objective.value_and_gradient(x)
    change = np.array([objective.value_and_gradient(x + h * v)[0] for h in steps]) - value
    bend = v @ objective.hessian_action(x, v)
    first = change - steps * (gradient @ v)
    rates = [slope(steps, r) for r in (change, first, first - steps**2 / 2 * bend)]
    assert rates == pytest.approx([1, 2, 3], abs=0.3)
    fine = steps / 64
    change = np.array([objective.value_and_gradient(x + h * v)[0] for h in fine]) - value
    assert slope(fine, change - fine * (gradient @ v)) == pytest.approx(2, abs=0.3)
    assert slope(fine, change - 1.01 * fine * (gradient @ v)) < 1.3


def test_joint_objective_at_the_minimising_t_is_the_risk(rng):
    objective = Objective(Analytic(), CVaR(0.7, 1.5), joint=True)
    z = rng.standard_normal(3)
    value, gradient = objective.value_and_gradient(objective.start(z))
    q, J = objective.ensemble.quantity_and_jacobian(z)
    assert value == pytest.approx(objective.risk.value(q), rel=1e-14)
    alone, slope_alone = Objective(Analytic(), CVaR(0.7, 1.5)).value_and_gradient(z)
    assert alone == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(slope_alone, gradient[:3], rtol=1e-12)
    np.testing.assert_allclose(gradient[:3], objective.risk.gradient(q) @ J, rtol=1e-12)
    assert abs(gradient[3]) < 1e-12


def test_hessian_actions_at_one_point_share_its_jacobian(monkeypatch, rng):
    ensemble = Analytic()
    objective, calls, (z, v) = Objective(ensemble, MeanVariance(0.5)), [], rng.standard_normal((2, 3))
    evaluate = ensemble.quantity_and_jacobian
    monkeypatch.setattr(ensemble, "quantity_and_jacobian", lambda z: (calls.append(1), evaluate(z))[1])
    objective.value_and_gradient(z)
    first, again = objective.hessian_action(z, v), objective.hessian_action(z, 2 * v)
    assert len(calls) == 1
    np.testing.assert_allclose(again, 2 * first)
    z[0] += 1.0  # in place: the point is another one
    assert not np.allclose(objective.hessian_action(z, v), first)
    assert len(calls) == 2


def test_smoothing_of_the_l1_norm():
    z = np.array([0.0, -2.0, 1e-3])
    for epsilon in (1e-6, 1e-2):
        value, _ = L1Penalty(3.0, epsilon).value_and_gradient(z)
        assert 3 * (np.abs(z).sum() - 3 * epsilon) <= value <= 3 * np.abs(z).sum()


def test_weights_of_the_objective(rng):
    """Twice a sample is a sample of twice the weight."""
    one, z = Analytic(n=4), rng.standard_normal(3)
    two = Analytic(n=4)
    two.n, two.a, two.b = 5, np.vstack([two.a, two.a[:1]]), np.vstack([two.b, two.b[:1]])
    weighted = Objective(one, MeanVariance(1.0), weights=np.array([2, 1, 1, 1]) / 5)
    value, gradient = weighted.value_and_gradient(z)
    expected, slopes = Objective(two, MeanVariance(1.0)).value_and_gradient(z)
    assert value == pytest.approx(expected)
    np.testing.assert_allclose(gradient, slopes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L2Penalty(-1.0), "weight"),
        (lambda: L1Penalty(1.0, epsilon=0.0), "epsilon"),
        (lambda: Objective(Analytic(), Expectation(), [L2Penalty(1.0, np.eye(4))]), "penalties: L2Penalty takes no 3"),
        (lambda: Objective(Analytic(), Expectation(), [L2Penalty(1.0, reference=np.ones(2))]), "penalties: L2Penalty"),
        (lambda: Objective(Analytic(), Expectation(), weights=np.ones(3)), r"weights: expected shape \(40,\)"),
        (
            lambda: Objective(Analytic(), CVaR(), joint=True).value_and_gradient(np.zeros(3)),
            r"variables: expected shape \(4,\)",
        ),
    ],
)
def test_bad_objective(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_quantity_that_is_not_finite_is_an_error():
    ensemble = Analytic()
    ensemble.b[2] = np.nan
    with pytest.raises(SolveError, match="not finite at 1 of 40 samples"):
        Objective(ensemble, CVaR(), joint=True).start(np.zeros(3))

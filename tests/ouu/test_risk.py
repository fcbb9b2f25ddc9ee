"""Risk measures: closed forms, smoothing bounds, weights, Taylor rates; bad input; a user's own."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import stats

from hippylib_dino.errors import InputError
from hippylib_dino.ouu import (
    CVaR,
    Entropic,
    Expansion,
    Expectation,
    MeanVariance,
    RiskMeasure,
    SmoothingWarning,
    WorstCase,
)

pytestmark = pytest.mark.filterwarnings("ignore:epsilon")  # wide smoothing, for the derivatives' sake


@dataclass(frozen=True)
class Shortfall(RiskMeasure):
    """Mean square of what exceeds a goal: a user's own measure."""

    goal: float = 0.0

    def expand(self, q, weights):
        excess = np.maximum(q - self.goal, 0)
        return Expansion(
            weights @ excess**2,
            2 * weights * excess,
            lambda v: 2 * weights * (excess > 0) * v,
        )


MEASURES = {
    "expectation": Expectation(),
    "mean-variance": MeanVariance(beta=0.7),
    "cvar": CVaR(beta=0.8, epsilon=0.5),
    "cvar, wide smoothing": CVaR(beta=0.3, epsilon=6.0),
    "entropic": Entropic(theta=1.3),
    "worst case": WorstCase(epsilon=1.5),
    "worst case, default": WorstCase(),
    "user's": Shortfall(0.2),
}


@pytest.fixture(params=MEASURES)
def risk(request):
    return MEASURES[request.param]


@pytest.fixture
def weights(rng):
    w = rng.uniform(0, 1, 60)
    w[::7] = 0
    return w / w.sum()


def curve(s):
    """Samples along a path that is not straight, (60,), with its first two derivatives."""
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 60))
    wave = np.exp(0.7 * b * s)
    return a + s + wave, 1 + 0.7 * b * wave, (0.7 * b) ** 2 * wave


def remainders(risk, weights, scale=1.0):
    """Taylor remainders of s ↦ R(q(s)) of order 1, 2, 3."""
    q, dq, ddq = curve(0.0)
    g = risk.gradient(q, weights)
    slope = scale * (g @ dq)
    bend = scale * (dq @ risk.hessian_action(q, dq, weights) + g @ ddq)
    steps = 2.0 ** -np.arange(7, 13)
    change = np.array([risk.value(curve(h)[0], weights) for h in steps]) - risk.value(q, weights)
    found = change, change - steps * slope, change - steps * slope - steps**2 / 2 * bend
    return [np.polyfit(np.log(steps), np.log(np.abs(r)), 1)[0] for r in found]


@pytest.mark.parametrize("weighted", [False, True])
def test_taylor_rates(risk, weights, weighted):
    first, second, third = remainders(risk, weights if weighted else None)
    assert first == pytest.approx(1.0, abs=0.1)
    assert second == pytest.approx(2.0, abs=0.1)
    assert third == pytest.approx(3.0, abs=0.25)


def test_taylor_rates_reject_derivatives_off_by_one_percent(risk):
    _, second, third = remainders(risk, None, scale=1.01)
    assert second < 1.7
    assert third < 2.5


def test_hessian_is_symmetric(risk, weights, rng):
    q, u, v = rng.standard_normal((3, 60))
    assert u @ risk.hessian_action(q, v, weights) == pytest.approx(v @ risk.hessian_action(q, u, weights), rel=1e-9)


@pytest.mark.parametrize("name", [n for n in MEASURES if n != "user's"])
def test_cash_moves_the_risk_by_itself(name, rng):
    """R(Q + c) = R(Q) + c; so the gradient sums to 1 and the Hessian of a constant vanishes."""
    risk, q = MEASURES[name], rng.standard_normal(60)
    assert risk.value(q + 5.0) == pytest.approx(risk.value(q) + 5.0, rel=1e-12)
    assert risk.gradient(q).sum() == pytest.approx(1.0, rel=1e-10)
    np.testing.assert_allclose(risk.hessian_action(q, np.ones(60)), 0.0, atol=1e-10)


@pytest.mark.parametrize("name", [n for n in MEASURES if not n.startswith("worst case")])
def test_repeated_samples_are_weights(name, rng):
    risk = MEASURES[name]
    q, times = rng.standard_normal(20), rng.integers(0, 4, 20)
    assert risk.value(q, times / times.sum()) == pytest.approx(risk.value(np.repeat(q, times)), rel=1e-12)


def sorted_cvar(q, beta):
    """Mean of the worst (1 - β) n samples, the last of them in part."""
    left, total = (1 - beta) * len(q), 0.0
    for value in np.sort(q)[::-1]:
        total += min(left, 1.0) * value
        left = max(left - 1.0, 0.0)
    return total / ((1 - beta) * len(q))


@pytest.mark.parametrize("n", [7, 100, 256, 1000])
@pytest.mark.parametrize("beta", [0.05, 0.5, 0.95, 0.999])
def test_cvar_is_that_of_sorted_samples(n, beta, rng):
    q = rng.standard_t(4, n)
    exact = sorted_cvar(q, beta)
    for epsilon in (1e-9, 1e-4, 0.1, 3.0):
        low, found = exact - epsilon / (2 * (1 - beta)), CVaR(beta, epsilon).value(q)
        assert low - 1e-9 <= found <= exact + 1e-9
    assert CVaR(beta, 1e-9).value(q) == pytest.approx(exact, abs=1e-6)


def test_smoothing_of_cvar_is_reached(rng):
    """The bound is sharp: of equal samples the smoothed value is ε(…) below by what t gains."""
    q = np.full(50, 2.0)
    gaps = [2.0 - CVaR(0.5, e).value(q) for e in (0.1, 0.2)]
    assert gaps[1] == pytest.approx(2 * gaps[0])
    assert 0 < gaps[0] <= 0.1


def test_cvar_joint_minimum_is_the_value(rng):
    """r(q, t) is convex in t, least at `auxiliary`, where its value is R."""
    risk, q, w = CVaR(0.9, 0.3), rng.standard_normal(200), np.full(200, 1 / 200)
    t = risk.auxiliary(q, w)
    at = risk.expand_jointly(q, t, w)
    assert at.value == risk.value(q)
    assert abs(at.auxiliary_gradient[0]) < 1e-12
    assert all(risk.expand_jointly(q, t + d, w).value > at.value for d in (-0.1, 0.1))
    np.testing.assert_allclose(t, np.quantile(q, 0.9), atol=0.4)


def test_gaussian_closed_forms():
    """At quantile midpoints of a normal law."""
    q = 1.0 + 0.5 * stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    cvar = 1.0 + 0.5 * stats.norm.pdf(stats.norm.ppf(0.95)) / 0.05
    assert CVaR(0.95, 1e-4).value(q) == pytest.approx(cvar, abs=2e-3)
    assert MeanVariance(2.0).value(q) == pytest.approx(1.0 + 2 * 0.25, rel=1e-3)
    assert Entropic(1.5).value(q) == pytest.approx(1.0 + 1.5 * 0.25 / 2, rel=1e-3)


def test_variance_is_stable_under_a_large_mean(rng):
    q = rng.standard_normal(1000)
    assert MeanVariance(1.0).value(q + 1e9) - 1e9 == pytest.approx(MeanVariance(1.0).value(q), abs=1e-6)


def test_worst_case_bounds(rng):
    q = rng.standard_normal(100)
    for epsilon in (1e-3, 0.1, 2.0):
        assert q.max() <= WorstCase(epsilon).value(q) <= q.max() + epsilon * np.log(100)
    assert np.isfinite(WorstCase(1e-6).value(1e4 * q))


# ---- smoothing that follows the quantity ---------------------------------------------------


@pytest.mark.parametrize("scale", [1e-300, 1e-6, 1e-2, 1.0, 1e6, 1e300])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e6])
def test_default_smoothing_is_of_no_unit(scale, offset, rng):
    """R(aQ + c) = aR(Q) + c, with the exact values nearby; also the derivatives."""
    q = offset + 0.3 * rng.standard_normal(1000)
    v = rng.standard_normal(1000)
    for risk, exact in ((CVaR(), sorted_cvar(q, 0.95)), (WorstCase(), q.max())):
        value = risk.value(scale * q) / scale
        assert abs(value - exact) < 0.01 * q.std()
        assert value == pytest.approx(risk.value(q), abs=1e-4 * q.std())
        assert risk.smoothing(scale * q) == pytest.approx(0.01 * scale * q.std(), rel=1e-6)
        assert risk.gradient(scale * q).sum() == pytest.approx(1.0, abs=1e-3)
        if offset < 1e6:
            np.testing.assert_allclose(risk.gradient(scale * q), risk.gradient(q), atol=1e-7)
            np.testing.assert_allclose(scale * risk.hessian_action(scale * q, v), risk.hessian_action(q, v), atol=1e-4)


@pytest.mark.parametrize("risk", [CVaR(), WorstCase(), CVaR(0.5), Entropic()])
@pytest.mark.parametrize("constant", [0.0, 1e-300, 0.1, -7.0, 1e300])
def test_constant_quantity_is_its_own_risk(risk, constant):
    q = np.full(30, constant)
    assert risk.value(q) == pytest.approx(constant, rel=1e-9, abs=1e-303)
    assert risk.gradient(q).sum() == pytest.approx(1.0, rel=1e-2)
    assert np.isfinite(risk.hessian_action(q, np.ones(30))).all()


def test_entropic_of_small_quantities_is_their_mean(rng):
    q = rng.standard_normal(1000)
    assert Entropic().value(1e-300 * q) == pytest.approx(1e-300 * q.mean(), rel=1e-9)
    assert Entropic().value(1e-9 * q) == pytest.approx(1e-9 * q.mean(), rel=1e-6)


@pytest.mark.parametrize("risk", [CVaR(0.83), CVaR(0.3), WorstCase()], ids=str)
def test_derivatives_count_that_the_width_moves(risk, weights):
    """Central differences with steps far below the width; those at a fixed width differ."""
    (q, dq, _), h = curve(0.0), 1e-6
    q[5] = np.delete(q, slice(None, None, 7)).max() + 0.01  # two of the largest within the width

    def along(f):
        return (f(q + h * dq) - f(q - h * dq)) / (2 * h)

    slope, bend = risk.gradient(q, weights) @ dq, dq @ risk.hessian_action(q, dq, weights)
    assert along(lambda x: risk.value(x, weights)) == pytest.approx(slope, rel=1e-7)
    assert along(lambda x: risk.gradient(x, weights)) @ dq == pytest.approx(bend, rel=1e-4)
    fixed = replace(risk, epsilon=risk.smoothing(q, weights))
    assert fixed.value(q, weights) == risk.value(q, weights)
    assert abs(fixed.gradient(q, weights) @ dq - slope) > 1e-6 * abs(slope)


def test_weights_make_the_width():
    q, w = np.array([0.0, 1.0, 1e9]), np.array([0.5, 0.5, 0.0])
    assert CVaR().smoothing(q, w) == pytest.approx(0.005)
    assert Expectation().smoothing(q, w) is None


def test_given_smoothing_is_taken_and_warns_where_it_dominates(recwarn, rng):
    q = 1 + 0.3 * rng.standard_normal(1000)
    for risk in (CVaR(0.95, 1e-3), WorstCase(1e-3), CVaR(), WorstCase()):
        risk.value(q)
    assert not recwarn.list
    for risk in (CVaR(0.95, 1e-3), WorstCase(1e-3)):
        assert risk.smoothing(1e-4 * q) == 1e-3
        for ask in (risk.value, risk.gradient, lambda x, r=risk: r.hessian_action(x, x)):
            with pytest.warns(SmoothingWarning, match=r"epsilon: a smoothing of 0\.001 dominates") as caught:
                ask(1e-4 * q)
            assert caught[0].filename == __file__
        with pytest.warns(SmoothingWarning):
            risk.value(np.full(5, 1e-3))


def test_samples_without_weight_do_not_count(risk, rng):
    q = rng.standard_normal(10)
    w = np.full(10, 1 / 9)
    w[3] = 0
    moved = q.copy()
    moved[3] = 50.0
    assert risk.value(moved, w) == pytest.approx(risk.value(q, w), rel=1e-12)
    assert risk.gradient(q, w)[3] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CVaR(beta=1.0), r"beta: expected a level in \(0, 1\)"),
        (lambda: CVaR(beta=0.0), "beta"),
        (lambda: CVaR(beta=95), "beta: .* got 95"),
        (lambda: CVaR(beta=np.nan), "beta"),
        (lambda: CVaR(epsilon=0.0), "epsilon"),
        (lambda: MeanVariance(-1.0), "beta"),
        (lambda: Entropic(0.0), "theta"),
        (lambda: WorstCase(-1.0), "epsilon"),
        (lambda: Expectation().value(np.zeros((3, 1))), r"q: expected samples of shape \(n,\).* got \(3, 1\)"),
        (lambda: Expectation().value(np.zeros(0)), "q: expected"),
        (lambda: Expectation().value(np.array([1.0, np.nan])), "1 of 2 samples are not finite"),
        (lambda: Expectation().value(np.zeros(3), np.ones(2) / 2), r"weights: expected shape \(3,\)"),
        (lambda: Expectation().value(np.zeros(3), np.ones(3)), "weights: .* a sum of 3"),
        (lambda: Expectation().value(np.zeros(2), np.array([2.0, -1.0])), "weights: expected numbers >= 0"),
        (lambda: Expectation().hessian_action(np.zeros(3), np.zeros(2)), r"direction: expected shape \(3,\)"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make()

"""Risk by the PDE with the surrogate as control variate: exact on closed forms, honest of a bad surrogate."""

import numpy as np
import pytest
from scipy.stats import norm

from hippylib_dino.errors import InputError
from hippylib_dino.ouu import (
    CVaR,
    Ensemble,
    Expectation,
    L2Penalty,
    MeanVariance,
    Objective,
    SmoothingWarning,
    WorstCase,
    assess,
    minimize,
)
from tests.ouu.ensembles import Analytic

G, SLOPE = np.array([1.0, -2.0]), np.array([[0.5, 0.1], [-0.2, 0.4]])


class Normal(Ensemble):
    """Q = gᵀz + s xᵀ(e + Sz), x ~ N(0, I): normal, with a mean and a deviation that depend on z."""

    n_control = 2

    def __init__(self, x, scale=1.0, bias=0.0, g=G):
        self.x, self.n, self.scale, self.bias, self.g = x, len(x), scale, bias, g

    def quantity(self, z):
        return self.quantity_and_jacobian(z)[0]

    def quantity_and_jacobian(self, z):
        q = self.bias + self.g @ z + self.scale * self.x @ (1 + SLOPE @ z)
        return q, self.g + self.scale * self.x @ SLOPE

    def hessian_actions(self, z, direction):
        return np.zeros((self.n, 2))


Z = np.array([0.3, -0.4])
SPREAD = 1 + SLOPE @ Z
DEVIATION = np.linalg.norm(SPREAD)
KAPPA = norm.pdf(norm.ppf(0.8)) / 0.2
EXACT = {  # risk and its gradient
    "expectation": (Expectation(), G @ Z, G),
    "mean-variance": (MeanVariance(0.5), G @ Z + 0.5 * DEVIATION**2, G + SLOPE.T @ SPREAD),
    "cvar": (CVaR(0.8, 1e-3), G @ Z + KAPPA * DEVIATION, G + KAPPA * SLOPE.T @ SPREAD / DEVIATION),
}


def found(risk, seed=0, n=100, n_cheap=2000, surrogate=None, **options):
    rng = np.random.default_rng(seed)
    x, others = rng.standard_normal((n, 2)), rng.standard_normal((n_cheap, 2))
    objective = Objective(Normal(x), risk, options.pop("penalties", ()))
    if surrogate is not None:
        options |= {"paired": Normal(x, **surrogate), "cheap": Normal(others, **surrogate)}
    return assess(objective, Z, **{"n_bootstrap": 100, "seed": seed, **options})


@pytest.mark.parametrize("surrogate", [None, {"scale": 0.8, "bias": 3.0}], ids=["plain", "control variate"])
@pytest.mark.parametrize("name", EXACT)
def test_intervals_cover_the_truth(name, surrogate):
    """Of sixty repetitions 95 % intervals miss a few; with a wrong surrogate they are as honest, and narrower."""
    risk, value, gradient = EXACT[name]
    runs = [found(risk, seed, n_cheap=1000, surrogate=surrogate, n_bootstrap=50) for seed in range(60)]
    covers = [run.risk.interval[0] <= value <= run.risk.interval[1] for run in runs]
    entries = [(r.gradient.interval[0] <= gradient) & (gradient <= r.gradient.interval[1]) for r in runs]
    assert 0.8 <= np.mean(covers) <= 1.0
    if name != "expectation":  # of which the gradient is the same for all samples
        assert (np.mean(entries, axis=0) >= 0.8).all()
    errors = np.array([run.risk.value for run in runs]) - value
    assert abs(errors.mean()) < 3.5 * errors.std() / np.sqrt(60) + 0.03
    assert np.mean([run.risk.standard_error for run in runs]) == pytest.approx(errors.std(), rel=0.3)
    if surrogate:
        assert errors.std() < 0.6 * np.std([run.risk.plain - value for run in runs])


def test_perfect_surrogate_leaves_the_error_of_the_many():
    estimate = found(Expectation(), surrogate={}, n_bootstrap=1000).risk
    assert estimate.weight == pytest.approx(2000 / 2100, rel=0.05)
    assert estimate.standard_error == pytest.approx(DEVIATION / np.sqrt(2100), rel=0.1)
    assert estimate.plain_error == pytest.approx(DEVIATION / np.sqrt(100), rel=0.3)


def test_surrogate_that_knows_nothing_is_given_no_weight():
    rng = np.random.default_rng(1)
    objective = Objective(Normal(rng.standard_normal((200, 2))), Expectation())
    paired, cheap = Normal(rng.standard_normal((200, 2))), Normal(rng.standard_normal((2000, 2)))
    run = assess(objective, Z, paired=paired, cheap=cheap)
    assert abs(run.risk.weight) < 0.25
    assert run.risk.standard_error <= run.risk.plain_error
    constant = Normal(np.zeros((200, 2))), Normal(np.zeros((50, 2)))
    run = assess(objective, Z, paired=constant[0], cheap=constant[1])
    assert run.risk.weight == 0
    assert run.risk.value == run.risk.plain


def test_without_surrogate_it_is_the_plain_estimate():
    run = found(CVaR(0.8, 1e-3), penalties=[L2Penalty(2.0)])
    q = run.quantity
    assert run.risk.value == run.risk.plain == CVaR(0.8, 1e-3).value(q)
    assert run.penalty == pytest.approx(Z @ Z)
    bare = found(CVaR(0.8, 1e-3))
    np.testing.assert_allclose(run.gradient.value, bare.gradient.value + 2 * Z)
    np.testing.assert_array_equal(run.gradient.standard_error, bare.gradient.standard_error)
    assert run.paired is None
    assert run.risk.surrogate is None
    assert "surrogate" not in str(run)


def test_optimum_of_one_sample_is_nearly_that_of_another():
    """The gradient at the optimum vanishes on its own samples, and within its error on fresh ones."""
    risk = MeanVariance(0.5)
    own = Objective(Analytic(n=3000), risk, [L2Penalty(0.5)])
    best = minimize(own, np.zeros(3), bounds=(0.0, 1.0), tolerance=1e-8, progress=False)
    run = assess(own, best.z, bounds=(0.0, 1.0), n_bootstrap=50)
    assert np.abs(run.projected_gradient).max() < 1e-6
    assert np.abs(run.gradient.value).max() > 1e-2  # held by the bounds
    fresh = assess(Objective(Analytic(n=3000, seed=7), risk, [L2Penalty(0.5)]), best.z, bounds=(0.0, 1.0))
    assert (np.abs(fresh.projected_gradient) < 4 * fresh.gradient.standard_error).all()
    assert fresh.risk.interval[0] - 0.1 < best.risk < fresh.risk.interval[1] + 0.1


def test_it_is_printed_and_reproducible():
    one, two = (found(CVaR(0.8, 1e-3), surrogate={"scale": 0.9}) for _ in range(2))
    text = str(one)
    assert text == str(two)
    for words in ("100 PDE samples, 2000 of the surrogate", "95% interval", "surrogate alone", "projected gradient"):
        assert words in text


class Given(Ensemble):
    """Samples of a quantity that does not depend on its control."""

    n_control = 1

    def __init__(self, q):
        self.q, self.n = q, len(q)

    def quantity(self, z):
        return self.q

    def quantity_and_jacobian(self, z):
        return self.q, np.ones((self.n, 1))

    def hessian_actions(self, z, direction):
        return np.zeros((self.n, 1))


def risk_of(q, risk, **options):
    return assess(Objective(Given(q), risk), np.zeros(1), **{"n_bootstrap": 4, **options}).risk


@pytest.mark.parametrize("risk", [CVaR(0.8), MeanVariance(1.0)], ids=str)
@pytest.mark.parametrize(
    "law", [lambda z: z, np.square, lambda z: np.exp(0.7 * z)], ids=["gauss", "square", "lognormal"]
)
def test_intervals_cover_skewed_quantities(law, risk):
    """Normal ones cover in 75 to 88 %."""
    truth = risk.value(law(norm.ppf((np.arange(100_000) + 0.5) / 100_000)))
    rng, inside = np.random.default_rng(5), 0
    for _ in range(150):
        low, high = risk_of(law(rng.standard_normal(50)), risk).interval
        inside += low <= truth <= high
    assert inside / 150 >= 0.87  # of a probability of 0.94, with probability 0.998


def test_few_samples_in_a_tail_carry_no_interval():
    q = np.random.default_rng(0).standard_normal(320)
    for n, none in ((32, True), (159, True), (160, False)):
        found = risk_of(q[:n], CVaR(0.95, 1e-9))
        assert np.isnan(found.interval).all() == none
        assert (found.reason != "") == none
        assert found.standard_error > 0
    assert "of 32 samples carry the risk, 8 are needed" in risk_of(q[:32], CVaR(0.95, 1e-9)).reason
    assert risk_of(q[:4], Expectation()).reason == ""
    assert "these samples alone" in risk_of(q, WorstCase()).reason
    run = assess(Objective(Given(q[:32]), CVaR(0.95)), np.zeros(1), n_bootstrap=4)
    assert np.isnan(run.gradient.interval).all()
    assert "none: 1" in str(run)
    assert run.smoothing == pytest.approx(0.01 * q[:32].std())


def test_groups_of_many_samples_say_the_same():
    """The jackknife leaves out groups where there are many."""
    q = np.random.default_rng(0).standard_normal(4000)
    found = risk_of(q, Expectation(), n_bootstrap=400)
    assert np.diff(found.interval)[0] == pytest.approx(2 * 1.96 * q.std() / np.sqrt(4000), rel=0.25)


def test_smoothing_that_dominates_is_a_warning():
    q = 1e-4 * np.random.default_rng(0).standard_normal(200)
    with pytest.warns(SmoothingWarning, match="dominates"):
        risk_of(q, CVaR(0.8, 1.0))


def test_weights_of_the_samples():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 2))
    weights = rng.uniform(0, 1, 50)
    weights /= weights.sum()
    run = assess(Objective(Normal(x), Expectation(), weights=weights), Z, n_bootstrap=400)
    assert run.risk.value == pytest.approx(weights @ Normal(x).quantity(Z))
    deviations = run.quantity - run.risk.value
    assert run.risk.standard_error == pytest.approx(np.sqrt((weights**2) @ deviations**2), rel=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paired": Analytic()}, "paired, cheap: a control variate takes both"),
        ({"paired": Analytic(n=3), "cheap": Analytic()}, "paired: expected the surrogate at the 40 samples"),
        ({"paired": Analytic(), "cheap": Analytic(n_control=2)}, "cheap: expected an ensemble of 3 controls"),
        ({"confidence": 1.0}, "confidence"),
        ({"n_bootstrap": 1}, "n_bootstrap"),
        ({"bounds": (1, 0)}, "bounds: inverted"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(InputError, match=message):
        assess(Objective(Analytic(), Expectation()), np.zeros(3), **options)


def test_bad_control():
    with pytest.raises(InputError, match=r"z: expected shape \(3,\)"):
        assess(Objective(Analytic(), Expectation()), np.zeros(2))
    with pytest.raises(InputError, match="at least 2 samples"):
        assess(Objective(Analytic(n=1), Expectation()), np.zeros(3))

"""Intervals of means that cover: over laws and numbers, in any units; none where there can be none."""

import numpy as np
import pytest

from hippylib_dino.errors import InputError
from hippylib_dino.intervals import Level, check_confidence, freedom, kurtosis, of_mean, pivot_quantiles, shown, welch
from hippylib_dino.oed.criteria import mean_over_draws

REPEATS = 400
# a law that covers with probability 0.93 is below these with probability 1e-3 or less
LEAST = 0.89
LAWS = {
    "gauss": (lambda rng, n: rng.standard_normal(n), 0.0),
    "lognormal": (lambda rng, n: np.exp(rng.standard_normal(n)), np.exp(0.5)),
    "Student 5": (lambda rng, n: rng.standard_t(5, n), 0.0),
    "two modes": (lambda rng, n: rng.choice([-2.0, 2.0], n) + 0.5 * rng.standard_normal(n), 0.0),
    "chi square 1": (lambda rng, n: rng.standard_normal(n) ** 2, 1.0),
}


@pytest.mark.parametrize("n", [6, 30])
@pytest.mark.parametrize("law", LAWS)
def test_intervals_of_means_cover(law, n):
    """Also those of expected gains, which are such means; Student's cover lognormal terms in 80 and 88 %."""
    draw, truth = LAWS[law]
    rng = np.random.default_rng(11)
    found = [mean_over_draws(draw(rng, n)).interval for _ in range(REPEATS)]
    assert np.mean([low <= truth <= high for low, high in found]) >= LEAST


def test_many_terms_have_nearly_students_interval():
    terms = np.random.default_rng(0).standard_normal(5000)
    (low, high), reason = of_mean(terms, 0.95)
    assert reason == ""
    assert (high - low) / (2 * 1.96 * terms.std() / np.sqrt(5000)) == pytest.approx(1.0, abs=0.1)


def test_skewed_terms_have_an_interval_that_leans():
    terms = np.exp(np.random.default_rng(0).standard_normal(40))
    (low, high), _ = of_mean(terms, 0.95)
    assert high - terms.mean() > 1.3 * (terms.mean() - low)


@pytest.mark.parametrize("scale", [1e-300, 1e-6, 1e6, 1e150])
def test_intervals_have_the_units_of_the_terms(scale):
    terms = np.exp(np.random.default_rng(0).standard_normal(20))
    np.testing.assert_allclose(of_mean(terms, 0.9)[0], np.array(of_mean(scale * terms, 0.9)[0]) / scale, rtol=1e-6)


def test_higher_confidence_is_wider():
    terms = np.random.default_rng(0).standard_normal(20)
    widths = [np.diff(of_mean(terms, c)[0]) for c in (0.5, 0.8, 0.95, 0.99)]
    assert (np.diff(widths, axis=0) > 0).all()


def test_terms_without_spread_have_an_interval_without_width():
    assert of_mean(np.full(7, 3.0), 0.95) == ((3.0, 3.0), "")
    assert kurtosis(np.full(7, 0.1)) == 0.0


def test_one_term_has_none():
    interval, reason = of_mean(np.ones(1), 0.95)
    assert np.isnan(interval).all()
    assert reason == "one sample has no spread"
    assert shown(interval, reason) == "none: one sample has no spread"
    assert shown((0.123456, 2.0), "", 3) == "[0.123, 2]"
    estimate = mean_over_draws(np.array([1.0, np.nan]))
    assert (estimate.reason, estimate.n_failed) == (reason, 1)


def test_degrees_of_freedom():
    rng = np.random.default_rng(0)
    assert freedom(rng.standard_normal(101)) == pytest.approx(
        2 * 100 / 4
    )  # fewer than Student's: kurtosis 5 is allowed for
    heavy = rng.standard_normal(1001) ** 3
    assert freedom(heavy) == pytest.approx(2 * 1000 / (kurtosis(heavy) - 1))
    assert welch([1.0, 1.0], [10.0, 10.0]) == pytest.approx(20.0)
    assert welch([1.0, 0.0], [7.0, 3.0]) == pytest.approx(7.0)
    assert welch([0.0, 0.0], [7.0, 3.0]) == 3.0


def test_the_level_with_the_larger_error_decides():
    rng = np.random.default_rng(0)
    skewed, many = Level(np.exp(rng.standard_normal(30))), Level(rng.standard_normal(3000), 1e-3)
    alone = pivot_quantiles([skewed], [skewed.variance], 0.95)
    both = pivot_quantiles([skewed, many], [skewed.variance, many.variance], 0.95)
    np.testing.assert_allclose(both, alone, rtol=0.01)


def test_bad_confidence():
    for level in (0.0, 1.0, 95, np.nan):
        with pytest.raises(InputError, match="confidence"):
            check_confidence(level)

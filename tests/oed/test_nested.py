"""Nested Monte Carlo against closed forms, and the Laplace approximation against it."""

import numpy as np
import pytest

from hippylib_dino.errors import InputError
from hippylib_dino.oed import InformationGain, nested_monte_carlo
from tests.oed.toys import Linear, correlated_noise, polynomial_dino


@pytest.mark.parametrize("proposal", ["laplace", "prior"])
def test_linear_gaussian_closed_form(rng, proposal):
    """The Laplace proposal is the posterior itself: two samples are enough; from the prior it takes many."""
    linear = Linear(rng, n_parameters=3)
    noise, rows = 4.0 * correlated_noise(9, rng), [1, 6]
    gain = InformationGain(linear.dino, noise, n_draws=300, seed=3)
    n_inner = 2 if proposal == "laplace" else 20_000
    found = nested_monte_carlo(gain, rows, n_inner, proposal=proposal, confidence=0.999)
    _, eigenvalues = linear.covariance(noise, rows)
    exact = 0.5 * np.log1p(eigenvalues).sum()
    low, high = found.estimate.interval
    assert low < exact < high
    assert high - low < exact
    assert found.effective_samples.shape == (300,)
    if proposal == "laplace":
        np.testing.assert_allclose(found.effective_samples, 2.0, rtol=1e-4)


@pytest.fixture
def bent():
    """Four observables of two parameters, mildly nonlinear."""
    linear = np.array([[1.0, 0.0], [0.6, 0.6], [0.0, 0.8], [-0.5, 1.0]])
    return polynomial_dino(np.zeros(4), linear, 0.1 * np.einsum("si,sj->sij", linear, linear))


def test_laplace_agrees_with_nested_monte_carlo(bent):
    """On the same draws, whose noise cancels in the difference."""
    gain = InformationGain(bent, 0.05, n_draws=400, seed=1)
    for design in [(0,), (0, 3), (0, 1, 2, 3)]:
        reference = nested_monte_carlo(gain, design, 4000)
        assert np.median(reference.effective_samples) > 1000
        laplace = gain.estimate(design)
        error = np.hypot(laplace.standard_error, reference.estimate.standard_error)
        assert abs(laplace.value - reference.estimate.value) < 0.03 * reference.estimate.value + 3 * error
        assert error < 0.06 * laplace.value


def test_both_proposals_agree(bent):
    gain = InformationGain(bent, 0.05, n_draws=20, seed=2)
    a = nested_monte_carlo(gain, (0, 3), 5000)
    b = nested_monte_carlo(gain, (0, 3), 100_000, proposal="prior", seed=9)
    # outer draws are the same, so that only inner noise is left
    assert a.estimate.value == pytest.approx(b.estimate.value, abs=0.02)
    assert np.median(a.effective_samples) / 5000 > 5 * np.median(b.effective_samples) / 100_000


def test_bad_input_is_named(bent):
    gain = InformationGain(bent, 0.05, n_draws=2)
    with pytest.raises(InputError, match="n_inner: expected at least 2"):
        nested_monte_carlo(gain, (0,), 1)
    with pytest.raises(InputError, match="proposal: expected one of"):
        nested_monte_carlo(gain, (0,), proposal="posterior")
    with pytest.raises(InputError, match="design: expected at least one sensor, got none"):
        nested_monte_carlo(gain, ())

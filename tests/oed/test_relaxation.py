"""Continuous weights: at 0 and 1 they are designs, gradients by Taylor, bounds above every design."""

import itertools

import numpy as np
import pytest

from hippylib_dino.errors import InputError
from hippylib_dino.oed import ATrace, Budget, DLogDet, InformationGain, MinimalDistance, exhaustive, relaxed
from tests.oed.toys import correlated_noise, polynomial_dino

GROUPS = [[0, 1], [2], [3], [4, 6], [5], [7]]


def smooth_dino(n=8):
    place = np.linspace(0.0, 1.0, n)[:, None]
    linear = np.cos(np.arange(4) * np.pi * place) / np.arange(1, 5)
    return polynomial_dino(np.zeros(n), linear, 0.1 * np.einsum("si,sj->sij", linear, linear))


def criteria(noise, groups=None, method="linearized"):
    options = {"n_draws": 3, "method": method, "groups": groups}
    dino = smooth_dino()
    return [
        InformationGain(dino, noise, **options),
        DLogDet(dino, noise, **options),
        ATrace(dino, noise, gram=np.diag([1.0, 2.0, 0.0, 1.0]), **options),
    ]


def noises(rng):
    return {"variances": np.linspace(0.01, 0.05, 8), "correlated": 0.02 * correlated_noise(8, rng)}


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("kind", ["variances", "correlated"])
def test_weights_of_zero_and_one_are_designs(rng, kind, groups):
    for criterion in criteria(noises(rng)[kind], groups):
        for design in [(), (2,), (0, 3, 5)]:
            weights = np.zeros(criterion.n_candidates)
            weights[list(design)] = 1.0
            assert criterion.relaxed(weights)[0] == pytest.approx(criterion(design), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("kind", ["variances", "correlated"])
def test_gradient_by_taylor(rng, kind, groups):
    """The remainder falls with the square of the step; a gradient wrong by 1 % does not pass."""
    for criterion in criteria(noises(rng)[kind], groups):
        n = criterion.n_candidates
        for weights in (rng.uniform(0.2, 0.8, n), np.zeros(n)):  # also where no sensor is chosen
            value, gradient = criterion.relaxed(weights)
            direction = rng.uniform(0.5, 1.0, n)
            for factor, rate in ((1.0, 2.0), (1.01, 1.0)):
                remainder = [
                    abs(criterion.relaxed(weights + h * direction)[0] - value - factor * h * gradient @ direction)
                    for h in (4e-6, 2e-6)
                ]
                assert np.log2(remainder[0] / remainder[1]) == pytest.approx(rate, abs=0.2)


def test_independent_noise_weighs_the_misfit(rng):
    """For independent noise a weight multiplies the sensor's share in the Hessian."""
    criterion = DLogDet(smooth_dino(), np.linspace(0.01, 0.05, 8), n_draws=1, method="linearized")
    weights = rng.uniform(size=8)
    J = criterion.dino.latent_map.jacobian(criterion.draws.x[0])
    hessian = J.T @ np.diag(weights / np.linspace(0.01, 0.05, 8)) @ J
    assert criterion.relaxed(weights)[0] == pytest.approx(np.linalg.slogdet(np.eye(4) + hessian)[1], rel=1e-10)


def test_bound_is_above_every_design_and_the_design_near_it():
    for criterion in criteria(np.linspace(0.01, 0.05, 8)):
        found, best = relaxed(criterion, 3), exhaustive(criterion, 3)
        assert best.value <= found.bound * (1 + 1e-9)
        assert found.value >= 0.95 * best.value
        assert found.bound <= 1.2 * best.value
        assert found.weights.sum() == pytest.approx(3.0, abs=1e-6)
        assert found.value == pytest.approx(criterion(found), rel=1e-9)


def test_correlated_noise_has_no_bound(rng):
    for criterion in criteria(noises(rng)["correlated"]):
        found = relaxed(criterion, 3)
        assert np.isnan(found.bound)
        assert found.value >= 0.9 * exhaustive(criterion, 3).value


def test_value_is_that_of_the_criterion_by_map_points():
    gain = criteria(0.02, method="laplace")[0]
    found = relaxed(gain, 3)
    assert found.value == pytest.approx(gain(found), rel=1e-9)


def test_fixed_sensors_and_constraints_hold():
    gain = criteria(0.02)[0]
    apart = MinimalDistance(np.linspace(0.0, 1.0, 8)[:, None], 0.25)
    design = relaxed(gain, 3, fixed=[4], constraints=[apart])
    assert design[0] == 4
    assert all(abs(a - b) > 1 for a, b in itertools.combinations(design, 2))
    budget = Budget(np.array([4.0, 1, 1, 1, 1, 1, 1, 4.0]), 3.0)
    assert budget(relaxed(gain, 3, constraints=[budget]))
    assert len(relaxed(gain, 1, fixed=[2])) == 1
    with pytest.raises(InputError, match="n_sensors: expected 1 to 8"):
        relaxed(gain, 9)
    with pytest.raises(InputError, match="constraints: no candidate is allowed"):
        relaxed(gain, 2, constraints=[Budget(np.full(8, 2.0), 1.0)])

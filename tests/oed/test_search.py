"""Searches on criteria whose best design is known."""

import itertools

import numpy as np
import pytest

from hippylib_dino.errors import InputError
from hippylib_dino.oed import (
    Budget,
    DLogDet,
    InformationGain,
    MinimalDistance,
    exhaustive,
    greedy,
    random_designs,
    swapping_greedy,
)
from tests.oed.toys import Linear, correlated_noise, polynomial_dino

TRAP = [{1, 2, 3, 4, 5}, {1, 2, 3, 6, 7, 8}, {4, 5, 9, 10}, {6, 7, 8}, {9, 10}]


def coverage(design):
    """Monotone and submodular: how many elements the sets of a design cover."""
    return float(len(set().union(*(TRAP[s] for s in design))))


def test_greedy_is_within_its_bound_where_it_is_not_best():
    best = exhaustive(coverage, 2, candidates=range(5))
    found = greedy(coverage, 2, candidates=range(5))
    assert best.value == 10
    assert (1 - 1 / np.e) * best.value <= found.value <= best.value
    for n in (1, 2, 3, 4):
        bound = (1 - 1 / np.e) * exhaustive(coverage, n, candidates=range(5)).value
        assert greedy(coverage, n, candidates=range(5)).value >= bound


def test_greedy_falls_short_and_swapping_does_not():
    """Greedy takes the largest set first, which the best pair leaves out."""
    sets = [{1, 2, 3, 7, 8}, {1, 2, 3, 4}, {5, 6, 7, 8}]
    cover = lambda design: float(len(set().union(*(sets[s] for s in design))))  # noqa: E731
    assert greedy(cover, 2, candidates=range(3)).value == 7
    assert swapping_greedy(cover, 2, candidates=range(3)).value == 8


def smooth_dino():
    """Twelve sensors along a line read smooth functions of five parameters, bent."""
    place = np.linspace(0.0, 1.0, 12)[:, None]
    linear = np.cos(np.arange(5) * np.pi * place) / np.arange(1, 6)
    return polynomial_dino(np.zeros(12), linear, 0.1 * np.einsum("si,sj->sij", linear, linear))


@pytest.mark.parametrize("method", ["laplace", "linearized"])
def test_swapping_is_within_a_percent_of_exhaustive(method):
    for seed in range(3):
        gain = InformationGain(smooth_dino(), 0.01, n_draws=8, seed=seed, method=method)
        best, found = exhaustive(gain, 4), swapping_greedy(gain, 4)
        assert best.value >= found.value >= 0.99 * best.value
        assert gain(found) == pytest.approx(found.value, rel=1e-9)
        assert found.n_evaluations < best.n_evaluations


def test_exhaustive_is_the_maximum_over_combinations(rng):
    gain = DLogDet(Linear(rng).dino, correlated_noise(9, rng), n_draws=2, method="linearized")
    values = {design: gain(design) for design in itertools.combinations(range(9), 3)}
    found = exhaustive(gain, 3)
    assert found.value == pytest.approx(max(values.values()))
    assert tuple(sorted(found)) == max(values, key=values.get)
    assert found.n_evaluations >= len(values)


def test_order_and_path_of_a_design(rng):
    gain = DLogDet(Linear(rng).dino, 0.3, n_draws=2, method="linearized")
    design = swapping_greedy(gain, 4)
    assert len(design) == 4
    np.testing.assert_allclose(design.path, [gain(design[: n + 1]) for n in range(4)], rtol=1e-9)
    assert (np.diff(design.path) > 0).all()
    assert design[0] == max(design, key=lambda s: gain([s]))
    assert design.value == design.path[-1]


def test_fixed_sensors_stay(rng):
    gain = DLogDet(Linear(rng).dino, 0.3, n_draws=2, method="linearized")
    worst = min(range(9), key=lambda s: gain([s]))
    for search in (greedy, swapping_greedy, exhaustive):
        design = search(gain, 3, fixed=[worst])
        assert design[0] == worst
        others = [gain((worst, *rest)) for rest in itertools.combinations(set(range(9)) - {worst}, 2)]
        assert design.value >= 0.95 * max(others)
    assert all(worst in design for design in random_designs(gain, 3, 10, fixed=[worst]))


def test_measured_sensors_are_no_candidates(rng):
    gain = DLogDet(Linear(rng).dino, 0.3, n_draws=2)
    after = gain.condition((0, 1, 2), np.zeros(3))
    assert not set(greedy(after, 6)) & {0, 1, 2}
    with pytest.raises(InputError, match="n_sensors: expected 1 to 6"):
        greedy(after, 7)


def test_minimal_distance(rng):
    points = np.stack(np.meshgrid(np.arange(3.0), np.arange(3.0)), axis=-1).reshape(-1, 2)
    apart = MinimalDistance(points, 1.5)
    gain = DLogDet(Linear(rng).dino, 0.3, n_draws=2, method="linearized")
    best = exhaustive(gain, 3, constraints=[apart])
    for design in (greedy(gain, 3, constraints=[apart]), swapping_greedy(gain, 3, constraints=[apart]), best):
        gaps = [np.linalg.norm(points[a] - points[b]) for a, b in itertools.combinations(design, 2)]
        assert min(gaps) >= 1.5
        assert design.value <= best.value + 1e-12
    assert all(apart(design) for design in random_designs(gain, 3, 20, constraints=[apart]))
    assert best.value < exhaustive(gain, 3).value


def test_budget_buys_many_cheap_sensors():
    """One dear sensor covers most, cheap ones together more."""
    sets = [set(range(6)), *({10 * k, 10 * k + 1} for k in range(1, 6))]
    cover = lambda design: float(len(set().union(*(sets[s] for s in design))))  # noqa: E731
    budget = Budget([5.0, 1.0, 1.0, 1.0, 1.0, 1.0], 5.0)
    design = greedy(cover, 6, candidates=range(6), constraints=[budget])
    assert design.value == 10
    assert sum(budget.costs[list(design)]) <= 5.0
    assert swapping_greedy(cover, 6, candidates=range(6), constraints=[budget]).value == 10


def test_random_designs_are_different_and_reproducible(rng):
    gain = DLogDet(Linear(rng).dino, 0.3, n_draws=2, method="linearized")
    designs = random_designs(gain, 4, 30, seed=1)
    assert designs == random_designs(gain, 4, 50, seed=1)[:30]
    assert designs != random_designs(gain, 4, 30, seed=2)
    assert len(set(designs)) > 20
    assert all(len(set(design)) == 4 for design in designs)


@pytest.mark.parametrize("search", [greedy, swapping_greedy, exhaustive, random_designs])
def test_bad_input_is_named(search):
    with pytest.raises(InputError, match=r"n_sensors: expected 1 to 5, .* got 6"):
        search(coverage, 6, candidates=range(5))
    with pytest.raises(InputError, match=r"n_sensors: expected 1 to 5, .* got 0"):
        search(coverage, 0, candidates=range(5))
    with pytest.raises(InputError, match="candidates: expected at least one sensor to choose from, got none"):
        search(coverage, 1, candidates=[])
    with pytest.raises(InputError, match=r"candidates: the criterion does not tell its number; pass candidates=range"):
        search(coverage, 1)
    with pytest.raises(InputError, match=r"fixed: expected each sensor once"):
        search(coverage, 3, candidates=range(5), fixed=(1, 1))
    with pytest.raises(InputError, match=r"fixed: sensors .* together violate a constraint"):
        search(coverage, 3, candidates=range(5), fixed=(0, 1), constraints=[MinimalDistance(np.zeros((5, 1)), 1.0)])


def test_impossible_constraints_are_named():
    nothing = [Budget(np.full(5, 2.0), 1.0)]
    for search in (greedy, swapping_greedy):
        with pytest.raises(InputError, match="constraints: no candidate is allowed"):
            search(coverage, 2, candidates=range(5), constraints=nothing)
    with pytest.raises(InputError, match="constraints: no design of 2 sensors is allowed"):
        exhaustive(coverage, 2, candidates=range(5), constraints=nothing)
    with pytest.raises(InputError, match="constraints: of 600 random designs of 2 sensors 0 were allowed"):
        random_designs(coverage, 2, 3, candidates=range(5), constraints=nothing)


def test_other_bad_input_is_named():
    with pytest.raises(InputError, match="start: expected at most 2 different candidates"):
        swapping_greedy(coverage, 2, candidates=range(5), start=[0, 9])
    with pytest.raises(InputError, match="max_sweeps: expected at least 1"):
        swapping_greedy(coverage, 2, candidates=range(5), max_sweeps=0)
    with pytest.raises(InputError, match="n_designs: expected at least 1"):
        random_designs(coverage, 2, 0, candidates=range(5))
    with pytest.raises(InputError, match="n_sensors: expected at most 5 designs to try, got 10"):
        exhaustive(coverage, 2, candidates=range(5), max_designs=5)
    with pytest.raises(InputError, match="points: expected finite coordinates"):
        MinimalDistance(np.zeros(3), 1.0)
    with pytest.raises(InputError, match="distance: expected at least 0"):
        MinimalDistance(np.zeros((3, 2)), -1.0)
    with pytest.raises(InputError, match="costs: expected positive numbers"):
        Budget([1.0, 0.0], 1.0)

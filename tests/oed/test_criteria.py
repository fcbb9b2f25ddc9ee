"""Criteria against closed forms of linear Gaussian problems, against recomputation, and against each other."""

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError, MisfitError, SolveError
from hippylib_dino.oed import ATrace, DLogDet, Draws, GoalVariance, InformationGain, variance_reduction
from hippylib_dino.oed.criteria import mean_over_draws
from tests.oed.toys import Linear, correlated_noise, polynomial_dino

DESIGNS = [(3,), (0, 4), (8, 1, 5), (2, 3, 6, 7, 0)]


@pytest.fixture
def linear(rng):
    return Linear(rng)


@pytest.fixture(params=["scalar", "variances", "correlated"])
def noise(request, rng):
    return {"scalar": 0.3, "variances": rng.uniform(0.1, 2.0, 9), "correlated": correlated_noise(9, rng)}[request.param]


def dense(noise):
    return noise if np.ndim(noise) == 2 else np.diag(np.broadcast_to(noise, 9))


def gram_of(rng, rank=7):
    root = rng.standard_normal((rank, 4))
    return root @ root.T


@pytest.mark.parametrize("method", ["laplace", "linearized"])
def test_closed_forms_of_a_linear_problem(linear, noise, method, rng):
    gram, goals = gram_of(rng), rng.standard_normal((2, 11))
    options = {"n_draws": 5, "method": method, "rel_tolerance": 1e-10}
    determinant = DLogDet(linear.dino, noise, **options)
    trace = ATrace(linear.dino, noise, gram=gram, **options)
    goal = GoalVariance(linear.dino, noise, goals=goals, **options)
    for design in DESIGNS:
        covariance, eigenvalues = linear.covariance(dense(noise), design)
        assert determinant(design) == pytest.approx(np.log1p(eigenvalues).sum(), rel=1e-9)
        assert trace(design) == pytest.approx(np.trace(gram @ (np.eye(7) - covariance)), rel=1e-9)
        weights = goals @ linear.decoder
        assert goal(design) == pytest.approx(np.trace(weights @ (np.eye(7) - covariance) @ weights.T), rel=1e-9)
    assert trace.prior_trace == pytest.approx(np.trace(gram))


def test_linearized_information_gain_is_half_the_log_determinant(linear, noise):
    gain = InformationGain(linear.dino, noise, n_draws=2, method="linearized")
    for design in DESIGNS:
        _, eigenvalues = linear.covariance(dense(noise), design)
        assert gain(design) == pytest.approx(0.5 * np.log1p(eigenvalues).sum(), rel=1e-10)


def test_information_gain_of_each_draw_is_its_kl_divergence(linear, noise):
    gain = InformationGain(linear.dino, noise, n_draws=6, rel_tolerance=1e-10)
    basis, f = linear.dino.output_basis, linear.dino.latent_map
    for design in DESIGNS:
        covariance, eigenvalues = linear.covariance(dense(noise), design)
        rows = list(design)
        d = (basis.decode(f.value(gain.draws.x)) + gain.draws.noise)[:, rows]
        offset = basis.decode(f.value(np.zeros(7)))[rows]
        weights = np.linalg.inv(dense(noise)[np.ix_(rows, rows)]) @ linear.A[rows] @ covariance
        mean = (d - offset) @ weights
        spread = np.log1p(eigenvalues) - eigenvalues / (1 + eigenvalues)
        np.testing.assert_allclose(gain.samples(design), 0.5 * (spread.sum() + (mean**2).sum(axis=1)), rtol=1e-8)


def test_mean_over_many_draws_is_the_closed_form(linear, noise):
    gain = InformationGain(linear.dino, noise, n_draws=4000, seed=5)
    estimate = mean_over_draws(gain.samples((8, 1, 5)), confidence=0.999)
    _, eigenvalues = linear.covariance(dense(noise), (8, 1, 5))
    exact = 0.5 * np.log1p(eigenvalues).sum()
    assert estimate.interval[0] < exact < estimate.interval[1]
    assert 0 < estimate.standard_error < 0.05 * exact
    assert (estimate.n_draws, estimate.n_failed) == (4000, 0)


def test_with_the_control_variate_one_draw_of_a_linear_problem_is_exact(linear, noise):
    gain = InformationGain(linear.dino, noise, n_draws=1, rel_tolerance=1e-10)
    for design in DESIGNS:
        _, eigenvalues = linear.covariance(dense(noise), design)
        assert gain(design) == pytest.approx(0.5 * np.log1p(eigenvalues).sum(), rel=1e-9)


def test_control_variate_changes_no_expectation_and_takes_variance(rng):
    gain, design = InformationGain(curved_dino(rng, strength=0.05), 0.5, n_draws=3000), (1, 4, 6)
    control = mean_over_draws(gain.control(design), confidence=0.999)
    assert control.interval[0] < 0 < control.interval[1]
    assert gain.estimate(design).standard_error < 0.5 * mean_over_draws(gain.samples(design)).standard_error


def test_correlated_noise_is_not_the_sub_block_of_the_inverse(linear, rng):
    """The test above can fail: with the sub-block of Γ⁻¹ the value is another."""
    noise, rows = correlated_noise(9, rng), [0, 4]
    wrong = linear.A[rows].T @ np.linalg.inv(noise)[np.ix_(rows, rows)] @ linear.A[rows]
    value = DLogDet(linear.dino, noise, n_draws=1, method="linearized")(rows)
    assert abs(np.linalg.slogdet(np.eye(7) + wrong)[1] - value) > 0.05 * value


def criteria(dino, noise, rng, **options):
    return {
        "gain": InformationGain(dino, noise, **options),
        "determinant": DLogDet(dino, noise, **options),
        "trace": ATrace(dino, noise, gram=gram_of(rng, dino.input_basis.rank), **options),
    }


def curved_dino(rng, n_out=9, n_in=5, strength=0.1):
    return polynomial_dino(
        rng.standard_normal(n_out),
        rng.standard_normal((n_out, n_in)),
        strength * rng.standard_normal((n_out, n_in, n_in)),
    )


@pytest.mark.parametrize("groups", [None, [[0, 1], [2], [3, 4, 5], [6], [7, 8]]])
def test_low_rank_updates_equal_recomputation(noise, groups, rng):
    """Rank one for single sensors, rank two and three for groups; also from an empty design."""
    for criterion in criteria(curved_dino(rng), noise, rng, n_draws=4, method="linearized", groups=groups).values():
        for design in [(), (2,), (4, 0)]:
            candidates = [c for c in range(criterion.n_candidates) if c not in design]
            updated = criterion.extensions(design, candidates)
            recomputed = criterion.evaluate([(*design, c) for c in candidates])
            np.testing.assert_allclose(updated, recomputed, rtol=1e-10)


def test_extensions_from_the_neighbour_are_those_from_scratch(noise, rng):
    dino = curved_dino(rng)
    warm, cold = (criteria(dino, noise, np.random.default_rng(1), n_draws=6, rel_tolerance=1e-9) for _ in range(2))
    for name in warm:
        found = warm[name].extensions((1, 6), [0, 2, 3, 4, 5, 7, 8])
        expected = cold[name].evaluate([(1, 6, c) for c in [0, 2, 3, 4, 5, 7, 8]])
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_designs_together_are_designs_alone(noise, rng):
    """Designs of several sizes in one batch, in any order of their sensors, are those one by one."""
    designs = [(1,), (4, 2, 0), (), (8, 7), (2, 0, 4), (0, 1, 2, 3, 4, 5)]
    dino = curved_dino(rng)
    together = InformationGain(dino, noise, n_draws=6, rel_tolerance=1e-9).evaluate(designs)
    alone = InformationGain(dino, noise, n_draws=6, rel_tolerance=1e-9)
    np.testing.assert_allclose(together, [alone(design) for design in designs], rtol=1e-7)
    assert together[2] == 0.0
    assert together[1] == together[4]


def test_map_points_are_those_of_reduced_inference(noise, rng):
    """With all sensors, the criterion is the mean KL divergence that `hd.ReducedInference` gives for the data."""
    dino = curved_dino(rng)
    gain = InformationGain(dino, noise, n_draws=7, rel_tolerance=1e-9)
    inference = hd.ReducedInference(dino, noise)
    data = dino.output_basis.decode(dino.latent_map.value(gain.draws.x)) + gain.draws.noise
    posterior = inference.laplace(inference.map(data, rel_tolerance=1e-9))
    np.testing.assert_allclose(gain.samples(range(9)), posterior.kl_from_prior(), rtol=1e-6)


def test_groups_are_their_observables(linear, noise):
    groups = [[0, 3], [5], [1, 2, 8]]
    grouped = DLogDet(linear.dino, noise, n_draws=3, groups=groups)
    single = DLogDet(linear.dino, noise, n_draws=3)
    assert grouped((0, 2)) == pytest.approx(single((0, 3, 1, 2, 8)), rel=1e-9)
    assert grouped.n_candidates == 3
    assert grouped.leverage_scores(2).shape == (3,)


def test_draws_do_not_depend_on_how_many_there_are(linear):
    few, many = (InformationGain(linear.dino, 0.3, n_draws=n, seed=4).draws for n in (3, 8))
    np.testing.assert_array_equal(few.x, many.x[:3])
    np.testing.assert_array_equal(few.noise, many.noise[:3])


def test_measuring_one_after_the_other_is_measuring_at_once(linear, noise, rng):
    """Linear Gaussian: D and A gains of two steps add up; MAP points of the second step are those of all data."""
    gram = gram_of(rng)
    data = rng.standard_normal(3)
    for criterion in (
        DLogDet(linear.dino, noise, n_draws=3, rel_tolerance=1e-10),
        ATrace(linear.dino, noise, gram=gram, n_draws=3, rel_tolerance=1e-10),
        InformationGain(linear.dino, noise, n_draws=3, method="linearized"),
    ):
        first, then = (2, 7), (1, 5)
        whole = criterion((2, 7, 1, 5))
        after = criterion.condition(first, data[:2])
        assert after.measured == first
        assert criterion(first) + after(then) == pytest.approx(whole, rel=1e-8)
        third = after.condition([1], data[2:])
        assert criterion(first) + after([1]) + third([5]) == pytest.approx(whole, rel=1e-8)
        with pytest.raises(InputError, match=r"design: sensors \[2\] are measured"):
            after((2, 3))


def test_law_after_measuring_is_the_posterior_of_all_data(linear, noise, rng):
    rows, data = [2, 7, 1], rng.standard_normal(3)
    gain = InformationGain(linear.dino, noise, n_draws=1).condition(rows[:2], data[:2]).condition(rows[2:], data[2:])
    covariance, _ = linear.covariance(dense(noise), rows)
    basis = linear.dino.output_basis
    offset = basis.decode(linear.dino.latent_map.value(np.zeros(7)))[rows]
    precision = np.linalg.inv(dense(noise)[np.ix_(rows, rows)])
    mean, root = gain.parameter_law
    np.testing.assert_allclose(root @ root.T, covariance, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(mean, covariance @ linear.A[rows].T @ precision @ (data - offset), rtol=1e-5)


def test_draws_that_fail_are_counted_and_bounded(monkeypatch):
    monkeypatch.setattr("hippylib_dino.oed.laplace.MAX_ITER", 1)
    dino, designs = curved_dino(np.random.default_rng(2)), [(0, 3), (1, 2, 5)]
    strict = InformationGain(dino, 1e-4, n_draws=10, rel_tolerance=1e-12, max_failed=0.5)
    with pytest.raises(SolveError, match=r"design \[0, 3\]: the MAP points of \d+ of 10 draws did not converge"):
        strict(designs[0])
    assert strict.n_failed > 5
    assert strict.n_pairs == 10
    samples = strict.samples(designs[0])
    assert np.count_nonzero(np.isnan(samples)) == strict.n_failed


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d: InformationGain(d, 0.3)((0, 9)), InputError, r"design: expected numbers of candidates, 0 to 8"),
        (lambda d: InformationGain(d, 0.3)((0, -1)), InputError, r"design: expected numbers of candidates, 0 to 8"),
        (lambda d: InformationGain(d, 0.3)((0, 1.5)), InputError, r"design: expected numbers of candidates"),
        (lambda d: InformationGain(d, 0.3)((2, 2)), InputError, r"design: expected each sensor once, got \[2, 2\]"),
        (lambda d: InformationGain(d, 0.0), MisfitError, "noise variance: expected > 0"),
        (lambda d: InformationGain(d, np.ones((9, 9))), MisfitError, "the matrix is not positive definite"),
        (lambda d: InformationGain(d, np.ones(3)), MisfitError, "noise covariance: expected a scalar"),
        (lambda d: InformationGain(d, hd.NoiseCovariance(1.0, 3)), InputError, "expected one of 9 observables"),
        (lambda d: InformationGain(d, 0.3, n_draws=0), InputError, "n_draws: expected at least 1, got 0"),
        (lambda d: InformationGain(d, 0.3, method="exact"), InputError, "method: expected one of"),
        (lambda d: InformationGain(d, 0.3, rel_tolerance=0.0), InputError, "rel_tolerance: expected > 0"),
        (lambda d: InformationGain(d, 0.3, max_failed=1.0), InputError, r"max_failed: expected a share in \[0, 1\)"),
        (lambda d: InformationGain(d, 0.3, groups=[]), InputError, "groups: expected at least one candidate"),
        (lambda d: InformationGain(d, 0.3, groups=[[0], []]), InputError, "groups: expected at least one candidate"),
        (lambda d: InformationGain(d, 0.3, groups=[[0, 9]]), InputError, "groups: expected numbers of observables"),
        (lambda d: InformationGain(d, 0.3, groups=[[0], [0]]), InputError, "groups: expected each observable in one"),
        (
            lambda d: InformationGain(d, 0.3, draws=Draws(np.zeros((2, 3)), np.zeros((2, 9)))),
            InputError,
            r"draws: expected x \(n, 7\) and noise \(n, 9\)",
        ),
        (lambda d: Draws(np.zeros((2, 3)), np.zeros((1, 9))), InputError, "draws: expected x"),
        (lambda d: ATrace(d, 0.3, gram=np.eye(3)), InputError, r"gram: expected a symmetric matrix \(7, 7\)"),
        (lambda d: ATrace(d, 0.3, gram=-np.eye(7)), InputError, "gram: expected no negative eigenvalue, got -1"),
        (
            lambda d: GoalVariance(d, 0.3, goals=np.zeros(3)),
            InputError,
            r"goals: expected finite values of shape \(11,",
        ),
        (lambda d: InformationGain(d, 0.3).condition([1], np.zeros(2)), InputError, "data: expected 1 finite values"),
        (lambda d: InformationGain(d, 0.3).condition([], np.zeros(0)), InputError, "design: expected at least one"),
        (lambda d: InformationGain(d, 0.3).estimate([1], 1.5), InputError, "confidence: expected a level"),
    ],
)
def test_bad_input_is_named(linear, call, error, message):
    with pytest.raises(error, match=message):
        call(linear.dino)


def test_expected_variance_reduction_is_the_closed_form(linear, noise, rng):
    gain = DLogDet(linear.dino, noise, n_draws=3, rel_tolerance=1e-9)
    covariance, _ = linear.covariance(dense(noise), (2, 5))
    expected = np.diag(linear.decoder @ (np.eye(7) - covariance) @ linear.decoder.T)
    np.testing.assert_allclose(variance_reduction(gain, (2, 5)), expected, rtol=1e-9)
    both, _ = linear.covariance(dense(noise), (2, 5, 7))
    after = variance_reduction(gain.condition((2, 5), np.zeros(2)), (7,))
    np.testing.assert_allclose(after, np.diag(linear.decoder @ (covariance - both) @ linear.decoder.T), rtol=1e-7)

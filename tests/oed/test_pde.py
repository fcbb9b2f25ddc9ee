"""Criteria with the PDE: equal to the latent ones on a linear problem, whose surrogate is exact."""

import dolfin as dl
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.modeling.spaces import DofOrder, owned_values
from hippylib_dino.oed import ATrace, DLogDet, GoalVariance, InformationGain, PDECriteria, assess, mass_gram
from hippylib_dino.oed.pde import RestrictedMisfit
from tests.oed.toys import correlated_noise
from tests.problems import solve_map

DESIGNS = [(4,), (0, 8, 3), (1, 2, 5, 6, 7)]


def integral_goal(model):
    """The mean of the parameter over the domain, as a dual vector in canonical order."""
    test = dl.TestFunction(model.prior.Vh)
    return DofOrder(model.prior.Vh).to_array(owned_values(dl.assemble(test * dl.dx)))


def correlated(model, rng):
    """The linear problem with correlated noise of different variances."""
    noise = 1e-4 * correlated_noise(9, rng)
    return hd.JacobianModel(
        model.problem, model.prior, hd.CovarianceStateObservation(model.misfit.B, noise_covariance=noise)
    )


def latent(model, dino, pde, goals):
    options = {"draws": pde.draws(dino.input_basis), "rel_tolerance": 1e-9, "groups": pde.groups}
    return {
        "information_gain": InformationGain(dino, model.noise_covariance, **options),
        "log_determinant": DLogDet(dino, model.noise_covariance, **options),
        "trace": ATrace(dino, model.noise_covariance, gram=mass_gram(model.prior, dino.input_basis), **options),
        "goal_variance": GoalVariance(dino, model.noise_covariance, goals=goals, **options),
    }


@pytest.mark.parametrize("noise", ["scalar", "correlated"])
def test_latent_and_pde_agree_on_a_linear_problem(models, linear_dino, noise, rng):
    model = models["linear"] if noise == "scalar" else correlated(models["linear"], rng)
    goals = integral_goal(model)[None]
    groups = None if noise == "scalar" else [[0], [1, 2], [3], [4], [5], [6], [7], [8]]
    designs = DESIGNS if noise == "scalar" else [(4,), (0, 7, 1)]
    pde = PDECriteria(model, n_draws=2, seed=7, groups=groups, goals=goals, rel_tolerance=1e-9)
    result = pde.evaluate(designs)
    assert not result.failures
    assert (result.seconds > 0).all()
    for name, criterion in latent(model, linear_dino, pde, goals).items():
        found = np.array([criterion.samples(design) for design in designs])
        np.testing.assert_allclose(found, getattr(result, name), rtol=1e-5, err_msg=name)


def test_what_the_pde_solved_is_kept(models):
    pde = PDECriteria(models["linear"], n_draws=1)
    first, solves = pde.evaluate(DESIGNS[:2]), models["linear"].n_fwd_solve
    again = pde.evaluate([DESIGNS[1][::-1], DESIGNS[0]])
    assert models["linear"].n_fwd_solve == solves
    np.testing.assert_array_equal(first.trace[::-1], again.trace)
    assert again.designs == [tuple(sorted(DESIGNS[1])), DESIGNS[0]]


def test_restricted_misfit_is_that_of_its_rows(models, rng):
    """All rows: the misfit itself; some: value, gradient and Hessian of the dense formula."""
    model = models["linear"]
    covariance, rows = correlated_noise(9, rng), np.array([7, 0, 3])
    precision = np.linalg.inv(covariance[np.ix_(rows, rows)])
    misfit = RestrictedMisfit(model.B, rows, precision)
    misfit.data = rng.standard_normal(3)
    u = model.solveState(hd.data.draw_parameter(model.prior, 0, 0))
    residual = model.observe(u)[rows] - misfit.data
    assert misfit.cost([u, None, None]) == pytest.approx(0.5 * residual @ precision @ residual, rel=1e-12)
    direction, out = u.copy(), u.copy()
    hd.modeling.set_owned_values(direction, rng.standard_normal(u.size()))
    misfit.grad(hp.STATE, [u, None, None], out)
    assert out.inner(direction) == pytest.approx(residual @ precision @ model.observe(direction)[rows], rel=1e-10)
    misfit.apply_ij(hp.STATE, hp.STATE, u, out)
    expected = model.observe(u)[rows] @ precision @ model.observe(direction)[rows]
    assert out.inner(direction) == pytest.approx(expected, rel=1e-10)
    misfit.grad(hp.PARAMETER, [u, None, None], out)
    assert out.norm("l2") == 0.0


def test_assessment_of_an_exact_surrogate(models, linear_dino, rng):
    model = correlated(models["linear"], rng)
    pde = PDECriteria(model, n_draws=3, seed=2, rel_tolerance=1e-9)
    gain = DLogDet(linear_dino, model.noise_covariance)
    best = hd.oed.exhaustive(gain, 2)
    others = hd.oed.random_designs(gain, 2, 5, seed=3)
    found = assess(gain, pde, [best, *others])
    assert found.rank_correlation == pytest.approx(1.0)
    assert found.relative_error < 1e-5
    assert found.n_worse == 5
    assert found.rivals[0].value == 0.0
    np.testing.assert_allclose([d.value for d in found.differences], 0.0, atol=1e-4)
    # linear: the log-determinant is the same for all draws
    assert found.pde[0].interval[1] - found.pde[0].interval[0] < 1e-4
    text = str(found)
    assert "rank correlation 1.000" in text
    assert "the first design beats 5 of 5 others by the PDE" in text


def test_time_dependent_problem(models):
    """With all sensors at all times it is the Laplace approximation of the user's own misfit."""
    model = models["heat"]
    n = model.noise_covariance.dim
    pde = PDECriteria(model, n_draws=1, seed=1, rel_tolerance=1e-9)
    result = pde.evaluate([range(n), (0, n - 1)])
    data = model.evalObservable(pde.parameter(0)) + pde.noise()[0]
    for member, rows in zip(model.misfit.misfits, model.observation.rows, strict=True):
        hd.modeling.set_owned_values(member.d, data[rows])
    solution, solver = solve_map(model, GN_iter=50)
    assert solver.converged
    expected = hd.laplace(model, solution, rank=n)
    assert result.information_gain[0, 0] == pytest.approx(expected.klDistanceFromPrior(), rel=1e-6)
    assert 0 < result.log_determinant[1, 0] < result.log_determinant[0, 0]


RANKS = """
import numpy as np
import hippylib_dino as hd
from mpi4py import MPI
from tests.problems import linear
model = linear(hd.sample_communicator({ranks_per_sample}))
pde = hd.oed.PDECriteria(model, n_draws=1, seed=7)
result = pde.evaluate([(4,), (0, 8, 3), (1, 2)])
everyone = MPI.COMM_WORLD.allgather(result.information_gain)
assert all(np.array_equal(everyone[0], other) for other in everyone)
if MPI.COMM_WORLD.rank == 0:
    print(*(repr(float(v)) for v in np.concatenate([result.information_gain, result.trace]).ravel()))
"""


@pytest.mark.parametrize("ranks_per_sample", [1, 2])
def test_two_ranks_are_one(models, run_python, ranks_per_sample):
    """Two ranks share the pairs, one more of them than the other, or a mesh."""
    pde = PDECriteria(models["linear"], n_draws=1, seed=7)
    alone = pde.evaluate([(4,), (0, 8, 3), (1, 2)])
    expected = np.concatenate([alone.information_gain, alone.trace]).ravel()
    printed = run_python(RANKS.format(ranks_per_sample=ranks_per_sample), ranks=2).stdout.split()
    np.testing.assert_allclose([float(v) for v in printed], expected, rtol=1e-12 if ranks_per_sample == 1 else 1e-6)


def test_pairs_that_fail_are_counted_and_bounded(models):
    """A Newton-CG that may take one step only finds nothing."""
    pde = PDECriteria(models["confusion"], n_draws=2, max_iter=1, max_failed=1.0)
    result = pde.evaluate([(0, 5)])
    assert len(result.failures) == 2
    assert np.isnan(result.information_gain).all()
    strict = PDECriteria(models["confusion"], n_draws=2, max_iter=1)
    with pytest.raises(SolveError, match=r"designs: 2 of 2 MAP points by the PDE were not found, .* because Newton-CG"):
        strict.evaluate([(0, 5)])


def test_bad_input_is_named(models, linear_dino):
    model = models["linear"]
    with pytest.raises(InputError, match=r"model: expected an hd\.JacobianModel with pointwise .* whole state"):
        PDECriteria(models["state"])
    with pytest.raises(InputError, match=r"model: expected an hd\.JacobianModel .* got Model"):
        PDECriteria(hp.Model(model.problem, model.prior, model.misfit))
    with pytest.raises(InputError, match="n_draws: expected at least 1"):
        PDECriteria(model, n_draws=0)
    with pytest.raises(InputError, match=r"goals: expected shape \(n_goals, 81\)"):
        PDECriteria(model, goals=np.zeros((1, 3)))
    pde = PDECriteria(model, n_draws=1)
    with pytest.raises(InputError, match="design: expected numbers of candidates, 0 to 8"):
        pde.evaluate([(9,)])
    with pytest.raises(InputError, match="designs: expected at least one sensor in each"):
        pde.evaluate([()])
    gain = InformationGain(linear_dino, model.noise_covariance, n_draws=1)
    with pytest.raises(InputError, match="designs: expected at least one design"):
        assess(gain, pde, [])
    with pytest.raises(InputError, match="pde: has no goals"):
        assess(GoalVariance(linear_dino, model.noise_covariance, goals=np.zeros(81)), pde, [(0,)])
    grouped = InformationGain(linear_dino, model.noise_covariance, groups=[[0, 1], [2]])
    with pytest.raises(InputError, match="criterion, pde: expected the same groups"):
        assess(grouped, pde, [(0,)])
    with pytest.raises(InputError, match="basis: expected one of 81 parameters"):
        mass_gram(model.prior, linear_dino.output_basis)

"""Samples where certify says no, until it says yes."""

import dataclasses
import itertools
import shutil

import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.data.solving import SampleSolver
from hippylib_dino.errors import FingerprintError, InputError, SolveError
from hippylib_dino.modeling.spaces import DofOrder, map_block, owned_values
from hippylib_dino.network import ReducedDense
from hippylib_dino.plotting.enrichment import plot_enrichment
from hippylib_dino.surrogate.certification import certify
from hippylib_dino.surrogate.enrichment import enrich
from hippylib_dino.surrogate.metric import latent_posterior
from tests.problems import observe_truth, solve_map

QUICK = {"epochs": 2, "progress": False}


@pytest.fixture(scope="module")
def model(models):
    """The nonlinear problem, with data that the poor DINO is not good enough for."""
    observe_truth(models["confusion"], 12)
    return models["confusion"]


@pytest.fixture(scope="module")
def few(model, tmp_path_factory):
    """A dataset of few training samples."""
    return hd.generate(
        model, tmp_path_factory.mktemp("enrichment") / "few", n_samples=12, n_validation=4, n_test=16, input_rank=40,
        output_rank=30, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def poor(few):
    return hd.train(few, "h1", hidden=(64, 64), epochs=60, seed=3, progress=False)


@pytest.fixture
def dataset(few, tmp_path):
    shutil.copytree(few.path, tmp_path / "d")
    return hd.Dataset.open(tmp_path / "d")


def surrogate_of(dino, model):
    return hd.SurrogateModel(dino, model.prior, model.misfit)


@pytest.fixture(scope="module")
def enriched(model, few, poor, tmp_path_factory):
    path = tmp_path_factory.mktemp("enrichment") / "enriched"
    shutil.copytree(few.path, path)
    before = model.n_fwd_solve
    result = enrich(
        surrogate_of(poor, model), model, hd.Dataset.open(path), max_solves=60, n_per_round=16, epochs=200,
        progress=False,
    )  # fmt: skip
    return result, model.n_fwd_solve - before


# ---- what it is for ----------------------------------------------------------------------


def test_a_poor_dino_becomes_trusted_within_its_budget(model, few, poor, enriched):
    result, solved = enriched
    assert not certify(surrogate_of(poor, model), model, solve_map(surrogate_of(poor, model))[0]).trusted
    assert result.trusted
    assert result.n_solves <= 60
    assert solved == result.n_solves  # all of them are counted
    # by the PDE's own MAP point
    exact = solve_map(model)[0]
    model.solveAdj(exact[hp.ADJOINT], exact)
    model.setPointForHessianEvaluations(exact, gauss_newton_approx=True)
    hessian = hp.ReducedHessian(model)

    def distance(m):
        difference, image = m - exact[hp.PARAMETER], m.copy()
        hessian.mult(difference, image)
        return np.sqrt(difference.inner(image) / result.certificate.informed_directions)

    assert distance(result.solution[hp.PARAMETER]) < 0.35
    assert distance(solve_map(surrogate_of(poor, model))[0][hp.PARAMETER]) > 0.6


def test_the_held_out_samples_are_those_of_before(few, enriched):
    dataset = enriched[0].dataset
    for part in ("validation", "test"):
        np.testing.assert_array_equal(dataset.split(part).x, few.split(part).x)
    assert dataset.plan.n_train == few.plan.n_train
    assert dataset.verify() == few.verify() + len(dataset.given)


def test_the_history_says_what_was_paid(enriched):
    result = enriched[0]
    rounds = result.rounds
    assert rounds[0].n_solves in (1, 2)
    assert [r.n_train for r in rounds] == list(np.cumsum([12, *(r.n_added for r in rounds[:-1])]))
    assert sum(r.n_added for r in rounds) == len(result.dataset.given)
    for earlier, later in itertools.pairwise(rounds):
        assert later.n_solves == earlier.n_solves + earlier.n_added + 1 + later.certificate.n_forward
    text = str(result)
    assert f"trusted after {result.n_solves} PDE solves" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_figure_shows_the_rounds(enriched):
    result = enriched[0]
    distance, errors = plot_enrichment(result).axes
    solves = [r.n_solves for r in result.rounds]
    np.testing.assert_array_equal(distance.lines[0].get_xdata(), solves)
    certified = [r.certificate.relative_distance for r in result.rounds]
    np.testing.assert_array_equal(distance.lines[0].get_ydata(), certified)
    assert len(errors.lines) == 2


def test_the_dataset_says_where_samples_came_from(model, poor, enriched):
    """First the MAP point of the surrogate that was not trusted, then draws from its Laplace posterior."""
    dataset = enriched[0].dataset
    origins = list(dataset.given.values())[:16]
    assert [origin.split(": ")[1] for origin in origins] == ["MAP point"] + ["Laplace posterior"] * 15
    assert all("round 1" in origin for origin in origins)
    first = next(iter(dataset.given))
    surrogate = surrogate_of(poor, model)
    m = solve_map(surrogate)[0][hp.PARAMETER]
    order = DofOrder(model.prior.Vh)
    expected = order.to_array(owned_values(m))
    np.testing.assert_allclose(dataset.given_parameter(first), expected, atol=1e-3 * np.abs(expected).max())
    posterior = latent_posterior(surrogate, m)
    draws = np.array([dataset.given_parameter(i) for i in range(first + 1, first + 16)])
    deviations = order.from_array((draws - dataset.given_parameter(first)).T)
    images = map_block(lambda out, v: posterior.Hlr.mult(v, out), m, m, deviations)
    squares = np.einsum("ij,ij->j", deviations, images) / model.prior.mean.size()
    np.testing.assert_allclose(squares.mean(), 1.0, atol=0.1)  # 15 means of 289 chi-squared


def test_the_part_outside_the_basis_is_that_of_the_gradient(model, poor, dataset):
    """gᵀ(R⁻¹ - ΨΨᵀ)g, here from the PDE's gradient itself."""
    found = enrich(surrogate_of(poor, model), model, dataset, max_solves=2, **QUICK)
    m = found.solution[hp.PARAMETER]
    x = [model.solveState(m), m, model.generate_vector(hp.ADJOINT)]
    model.solveAdj(x[hp.ADJOINT], x)
    g, z = model.generate_vector(hp.PARAMETER), model.generate_vector(hp.PARAMETER)
    model.evalGradientParameter(x, g)
    model.prior.Rsolver.solve(z, g)
    decoder = DofOrder(model.prior.Vh).from_array(poor.input_basis.decoder)
    squared = g.inner(z) - ((decoder.T @ owned_values(g)) ** 2).sum()
    n = found.certificate.informed_directions
    assert found.rounds[0].outside == pytest.approx(np.sqrt(squared / n), rel=1e-3)
    assert found.rounds[0].outside < found.certificate.relative_distance


# ---- how it ends -------------------------------------------------------------------------


def test_a_trusted_surrogate_is_left_as_it_is(model, poor, dataset):
    surrogate = surrogate_of(poor, model)
    result = enrich(surrogate, model, dataset, threshold=100.0, **QUICK)
    assert result.trusted
    assert result.surrogate is surrogate
    assert len(result.rounds) == 1
    assert dataset.reopened().given == {}


@pytest.mark.parametrize("max_solves", [2, 3, 4, 12, 13])
def test_the_budget_is_kept(model, poor, dataset, max_solves):
    before = model.n_fwd_solve
    result = enrich(
        surrogate_of(poor, model), model, dataset, max_solves=max_solves, n_per_round=4, threshold=1e-6, **QUICK
    )
    assert model.n_fwd_solve - before == result.n_solves <= max_solves
    assert result.reason == "the budget of PDE solves is met"
    # after the first verdict, a batch of k takes k and two more
    assert len(result.dataset.given) == {2: 0, 3: 0, 4: 1, 12: 7, 13: 8}[max_solves]
    best = min(r.certificate.relative_distance for r in result.rounds)
    assert result.certificate.relative_distance == best


def test_samples_do_not_help_outside_the_basis(models, tmp_path):
    """An exact network in too few directions: all of the distance is outside, and no sample is added."""
    model = models["linear"]
    observe_truth(model)
    dataset = hd.generate(
        model, tmp_path / "linear", n_samples=4, n_validation=1, n_test=1, input_rank=9, output_rank=9, progress=False
    ).truncate(4, 9)
    sample = dataset.split("train")
    J = sample.reduced_jacobian[0]
    dino = hd.DINO(
        architecture=ReducedDense(4, 9, hidden=()),
        weights=[J.T, sample.y[0] - J @ sample.x[0]],
        input_basis=dataset.input_basis,
        output_basis=dataset.output_basis,
        fingerprint=dataset.fingerprint,
    )
    result = enrich(surrogate_of(dino, model), model, dataset, **QUICK)
    assert not result.trusted
    assert "lie outside the input basis, where samples are of no help" in result.reason
    assert result.rounds[0].outside == pytest.approx(result.certificate.relative_distance, rel=1e-6)
    assert result.n_solves == 1
    assert result.dataset.given == {}


def test_points_where_the_pde_fails_are_recorded(model, poor, dataset, monkeypatch):
    n = dataset.plan.n_total
    solve = SampleSolver.solve

    def fail(self, index):
        if index in failing:
            raise SolveError("out of luck")
        return solve(self, index)

    monkeypatch.setattr(SampleSolver, "solve", fail)
    failing = {n, n + 2}
    result = enrich(surrogate_of(poor, model), model, dataset, max_solves=6, n_per_round=3, threshold=1e-6, **QUICK)
    assert (result.rounds[0].n_added, result.rounds[0].n_failed) == (3, 2)
    assert [f["index"] for f in result.dataset.failures] == [n, n + 2]
    assert result.rounds[1].n_train == 13
    failing = set(range(n + 3, n + 6))
    result = enrich(surrogate_of(poor, model), model, result.dataset, n_per_round=3, seed=1, threshold=1e-6, **QUICK)
    assert result.reason == "the PDE could be solved at none of the points that were to be added"
    assert len(result.rounds) == 1


def test_a_map_point_at_which_the_pde_fails_is_not_asked_again(model, poor, dataset, monkeypatch):
    from hippylib_dino.surrogate import certification

    def fail(*_):
        raise SolveError("out of luck")

    monkeypatch.setattr(certification, "_ask_pde", fail)
    result = enrich(surrogate_of(poor, model), model, dataset, max_solves=5, n_per_round=3, **QUICK)
    assert [origin.split(": ")[1] for origin in result.dataset.given.values()][:3] == ["Laplace posterior"] * 3
    assert not result.trusted


def test_a_network_that_is_not_finite_ends_it(model, poor, dataset):
    broken = dataclasses.replace(poor, weights=[np.full_like(w, np.nan) for w in poor.weights])
    result = enrich(surrogate_of(broken, model), model, dataset, **QUICK)
    assert not result.trusted
    assert "there is no posterior to draw from; the surrogate at this point" in result.reason
    assert result.dataset.given == {}


# ---- again -------------------------------------------------------------------------------


def test_an_interrupted_call_is_finished_by_the_same_call(model, poor, dataset, monkeypatch):
    settings = {"n_per_round": 4, "threshold": 1e-6, "max_solves": 7, **QUICK}
    n = dataset.plan.n_total
    solve = SampleSolver.solve
    asked = []

    def killed(self, index):
        asked.append(index)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return solve(self, index)

    monkeypatch.setattr(SampleSolver, "solve", killed)
    with pytest.raises(KeyboardInterrupt):
        enrich(surrogate_of(poor, model), model, dataset, **settings)
    half = dataset.reopened()
    assert len(half.given) == 4
    assert not half.complete
    result = enrich(surrogate_of(poor, model), model, half, **settings)
    assert asked[3:] == [n + 2, n + 3]  # what was missing, and that alone
    assert len(result.dataset.given) == 4
    assert result.n_solves == 7
    # a larger budget goes on from there, and what is there counts
    longer = enrich(surrogate_of(poor, model), model, result.dataset, **{**settings, "max_solves": 13})
    assert asked[5:] == list(range(n + 4, n + 8))
    assert longer.n_solves == 13
    # another seed, as another network or other data: another enrichment
    enrich(surrogate_of(poor, model), model, longer.dataset, seed=1, **settings)
    assert asked[9:] == list(range(n + 8, n + 12))


def test_given_samples_weigh_in(model, poor, enriched):
    """The network has learnt where it was asked: observables there are better than those of the poor one."""
    result = enriched[0]
    train = result.dataset.split("train", jacobians=False)
    given = train.index >= 32
    noise = np.sqrt(np.diag(model.noise_covariance.to_dense()))

    def error(dino):
        q = dino.output_basis.decode(dino.latent_map.value(train.x[given]))
        return np.sqrt((((q - train.observable[given]) / noise) ** 2).mean())

    assert error(result.surrogate.dino) < 0.5 * error(poor)


# ---- what does not fit -------------------------------------------------------------------


def test_bad_input_is_named_before_any_solve(model, models, poor, dataset, linear_dino, confusion_dataset):
    surrogate, before = surrogate_of(poor, model), model.n_fwd_solve
    with pytest.raises(InputError, match="max_solves: expected at least 2, what the first verdict may take, got 1"):
        enrich(surrogate, model, dataset, max_solves=1)
    with pytest.raises(InputError, match="n_per_round: expected at least 1, got 0"):
        enrich(surrogate, model, dataset, n_per_round=0)
    with pytest.raises(InputError, match="n_train: is not to be given"):
        enrich(surrogate, model, dataset, n_train=4)
    with pytest.raises(InputError, match=r"surrogate: expected an hd.SurrogateModel, got JacobianModel"):
        enrich(model, surrogate, dataset)
    with pytest.raises(InputError, match=r"dataset: expected the hd.Dataset that the network was trained on, got str"):
        enrich(surrogate, model, str(dataset.path))
    with pytest.raises(InputError, match="dataset: its input basis is not the one that this DINO was trained in"):
        enrich(surrogate, model, confusion_dataset)
    with pytest.raises(InputError, match="dataset: its input basis is not the one"):
        enrich(surrogate, model, dataset.truncate(10, 30))
    with pytest.raises(InputError, match="surrogate: expected a DINO that Keras trained, to train it on, got one of"):
        enrich(surrogate_of(hd.linear_model(dataset), model), model, dataset)
    with pytest.raises(InputError, match="threshold: expected > 0, got 0"):
        enrich(surrogate, model, dataset, threshold=0)
    with pytest.raises(FingerprintError, match="surrogate: its DINO was made for another parameter space"):
        enrich(surrogate, models["linear"], dataset)
    assert model.n_fwd_solve == before
    assert dataset.reopened().given == {}


# ---- several ranks -----------------------------------------------------------------------

ON_RANKS = """
import numpy as np
import hippylib_dino as hd
from applications import confusion
from hippylib_dino.modeling.spaces import set_owned_values
comm = hd.sample_communicator()
model = confusion.build(comm, mesh_size=16)
data = np.load({folder!r} + "/data.npy")
set_owned_values(model.misfit.d, data)
surrogate = hd.SurrogateModel(hd.DINO.load({folder!r} + "/poor.dino"), model.prior, model.misfit)
result = hd.enrich(surrogate, model, hd.Dataset.open({folder!r} + "/d"), max_solves=8, n_per_round=5, threshold=1e-6,
                   epochs=2, progress=False)
from mpi4py import MPI
digests = MPI.COMM_WORLD.allgather([w.tobytes() for w in result.surrogate.dino.weights])
assert all(d == digests[0] for d in digests)
assert result.n_solves == 8, result.n_solves
print("FINISHED", flush=True)
"""


def test_groups_of_ranks_share_the_samples_and_one_trains(run_python, model, poor, dataset, tmp_path):
    np.save(tmp_path / "data.npy", owned_values(model.misfit.d))
    poor.save(tmp_path / "poor.dino")
    assert run_python(ON_RANKS.format(folder=str(tmp_path)), ranks=2).stdout.count("FINISHED") == 2
    grown = dataset.reopened()
    assert grown.complete
    one = enrich(surrogate_of(poor, model), model, grown, max_solves=8, n_per_round=5, threshold=1e-6, **QUICK)
    assert list(one.dataset.given) == list(grown.given)  # the same enrichment, which is done

"""The control variate on PDEs: closed Gaussian forms, a bad surrogate, ranks, held-out samples, bad input."""

import dataclasses
import re

import hippylib as hp
import numpy as np
import pytest
from scipy import stats

import hippylib_dino as hd
from hippylib_dino import uq
from hippylib_dino.errors import FingerprintError, InputError, SolveError
from hippylib_dino.plotting.forward_uq import plot_control_variate
from hippylib_dino.random_streams import Purpose, seed_of
from hippylib_dino.uq.law import GaussianLaw
from tests import problems

LEVEL = 3.5  # standard errors; passed by 99.95 % of the seeds
ROW = np.linspace(-1.0, 2.0, 9)  # of the linear quantity of interest Q = ROW . q


def linear_qoi(q):
    return q @ ROW


@pytest.fixture(scope="module")
def gaussian(models):
    """Mean and variance of the linear quantity of interest under the prior of the linear problem."""
    model = models["linear"]
    J = model.jacobian(model.prior.mean)
    rows = J.transpmult_block(ROW[:, None])
    solved = hd.modeling.spaces.map_block(model.prior.Rsolver.solve, model.prior.mean, model.prior.mean, rows)
    return ROW @ model.evalObservable(model.prior.mean), (rows.T @ solved).item()


@pytest.fixture(scope="module")
def bad_surrogate(models, linear_dino):
    """Biased, wrongly scaled, and blind for half of the latent parameters."""
    rng = np.random.default_rng(0)
    kernel, bias = linear_dino.weights
    wrong = kernel * rng.uniform(0.1, 0.9, kernel.shape)
    wrong[1::2] = 0.0
    dino = dataclasses.replace(linear_dino, weights=[wrong, bias + 50.0])
    return hd.SurrogateModel(dino, models["linear"].prior, models["linear"].misfit)


def run(models, surrogate, name="linear", qoi=linear_qoi, **options):
    settings = {"n_pde": 20, "n_surrogate": 4000, "statistics": ("mean",), "progress": False, **options}
    return uq.control_variate(qoi, models[name], surrogate, **settings)


def test_exact_surrogate_reproduces_the_closed_gaussian_forms(models, surrogates, gaussian):
    mean, variance = gaussian
    q0 = mean + 0.7 * np.sqrt(variance)
    statistics = ("mean", "variance", ("exceedance", q0))
    n = 200_000
    found = run(models, surrogates["linear surrogate"], n_surrogate=n, statistics=statistics, seed=3)
    np.testing.assert_allclose(found.pde, found.paired, rtol=1e-5)
    truth = dict(zip(found.estimates, (mean, variance, stats.norm.sf(0.7)), strict=True))
    for name, e in found.estimates.items():
        assert abs(e.value - truth[name]) < LEVEL * e.standard_error, name
    # what is left is the error of the many samples
    assert found["mean"].standard_error == pytest.approx(np.sqrt(variance / n), rel=0.05)
    assert found["variance"].standard_error == pytest.approx(variance * np.sqrt(2 / n), rel=0.05)


def test_bad_surrogate_stays_unbiased(models, bad_surrogate, gaussian):
    """Forty replications of twelve solves: the mean of the estimates is the truth, that of the surrogate is not."""
    mean, variance = gaussian
    found = [
        run(models, bad_surrogate, n_pde=12, n_surrogate=300, statistics=("mean", "variance"), seed=s)
        for s in range(40)
    ]
    for name, truth in (("mean", mean), ("variance", variance)):
        values, wrong = (np.array([getattr(f[name], what) for f in found]) for what in ("value", "surrogate"))
        assert abs(values.mean() - truth) < LEVEL * values.std() / np.sqrt(len(values)), name
        assert abs(wrong.mean() - truth) > 3 * LEVEL * wrong.std() / np.sqrt(len(wrong)), name


def test_posterior_as_law(models, surrogates):
    """Under a Laplace posterior the linear quantity of interest is Gaussian with a known mean and variance."""
    model = models["linear"]
    problems.observe_truth(model)
    surrogate = surrogates["linear surrogate"]
    solution, _ = problems.solve_map(surrogate)
    posterior = hd.laplace(surrogate, solution, rank=9)
    found = run(models, surrogate, posterior=posterior, n_surrogate=50_000, statistics=("mean", "variance"), n_pde=30)
    rows = model.jacobian(posterior.mean).transpmult_block(ROW[:, None])
    solved = hd.modeling.spaces.map_block(posterior.Hlr.solve, model.prior.mean, model.prior.mean, rows)
    truth = {"mean": ROW @ model.evalObservable(posterior.mean), "variance": (rows.T @ solved).item()}
    for name, e in found.estimates.items():
        assert abs(e.value - truth[name]) < LEVEL * e.standard_error, name
    assert e.correlation > 0.9999


def test_latent_draws_have_the_law_of_encoded_ones(models, surrogates):
    model, surrogate = models["linear"], surrogates["linear surrogate"]
    problems.observe_truth(model)
    posterior = hd.laplace(surrogate, problems.solve_map(surrogate)[0], rank=9)
    law = GaussianLaw(model.prior, surrogate.dino.input_basis, posterior)
    encoded = np.array([law.encode(law.draw((1, 2), i)) for i in range(400)])
    drawn = law.latent(np.random.default_rng(0), 100_000)
    np.testing.assert_allclose(drawn.mean(0), law.mean, atol=0.02)
    np.testing.assert_allclose(np.cov(drawn.T), law.covariance, atol=0.02)
    spread = np.sqrt(np.diag(law.covariance))
    assert np.all(abs(encoded.mean(0) - law.mean) < 4 * spread / np.sqrt(400))
    np.testing.assert_allclose(np.cov(encoded.T), law.covariance, atol=5 * spread.max() ** 2 / np.sqrt(400))


def test_learned_encoder_is_not_white(models, surrogates):
    """Of an encoder that no prior whitens, the law is computed, not assumed."""
    model, basis = models["linear"], surrogates["linear surrogate"].dino.input_basis
    mix = np.random.default_rng(0).standard_normal((9, 9))
    learned = dataclasses.replace(basis, encoder=basis.encoder @ mix, shift=0 * basis.shift, kind="learned")
    law = GaussianLaw(model.prior, learned)
    np.testing.assert_allclose(law.covariance, mix.T @ mix, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(law.mean, law.encode(model.prior.mean))
    assert np.abs(law.mean).max() > 0.1


def smooth_maximum(q):
    return np.log(np.exp(5 * q).sum(axis=1)) / 5


def test_nonlinear_problem_saves_variance_and_prints_it(models, surrogates):
    q0 = float(smooth_maximum(models["confusion"].evalObservable(models["confusion"].prior.mean)[None])[0])
    found = run(
        models, surrogates["confusion surrogate"], "confusion", smooth_maximum, n_pde=40, n_surrogate=20_000,
        statistics=("mean", "variance", ("exceedance", q0)),
    )  # fmt: skip
    assert found["mean"].correlation > 0.8
    assert found["mean"].variance_reduction(1e9) > 2  # had the surrogate cost nothing
    assert found["mean"].standard_error < found["mean"].plain_error
    text = str(found)
    assert all(words in text for words in ("PDE samples", f"P(Q > {q0:g})", "surrogate alone"))
    assert len(text.splitlines()) < 25
    assert found["mean"].variance_reduction(10.0) < found["mean"].variance_reduction(1000.0)


def test_error_falls_with_the_pairs_and_is_drawn(models, surrogates):
    found = run(models, surrogates["confusion surrogate"], "confusion", smooth_maximum, n_pde=40)
    counts, error, plain = found.convergence("mean")
    assert (counts[0], counts[-1]) == (4, 40)
    assert error[-1] == found["mean"].standard_error
    assert plain[-1] == found["mean"].plain_error
    figure = plot_control_variate(found, "mean", units="state")
    histogram, convergence = figure.axes
    assert histogram.get_xlabel() == "quantity of interest (state)"
    np.testing.assert_allclose(convergence.lines[0].get_ydata(), plain)
    np.testing.assert_allclose(convergence.lines[1].get_ydata(), error)
    with pytest.raises(InputError, match="statistic: expected one of"):
        plot_control_variate(found, "median")


def test_held_out_samples_cost_no_solve(models, surrogates, confusion_dataset, monkeypatch):
    def refuse(*_):
        raise AssertionError("a PDE was solved")

    monkeypatch.setattr(models["confusion"], "evalObservable", refuse)
    found = run(
        models, surrogates["confusion surrogate"], "confusion", smooth_maximum, n_pde=None, dataset=confusion_dataset
    )
    test = confusion_dataset.split("test")
    np.testing.assert_array_equal(found.pde, smooth_maximum(test.observable))
    assert found.n_held_out == len(test)
    assert found.pde_seconds > 0
    dino = surrogates["confusion surrogate"].dino
    predicted = dino.observable(confusion_dataset.full("m", test.index))
    np.testing.assert_allclose(found.paired, smooth_maximum(predicted), rtol=1e-8)


def test_fresh_samples_join_held_out_ones(models, surrogates, confusion_dataset):
    found = run(
        models, surrogates["confusion surrogate"], "confusion", smooth_maximum, n_pde=12, dataset=confusion_dataset
    )
    held_out = len(confusion_dataset.split("test"))
    assert (found.n_held_out, len(found.pde)) == (held_out, 12)
    fresh = run(models, surrogates["confusion surrogate"], "confusion", smooth_maximum, n_pde=12 - held_out)
    np.testing.assert_array_equal(found.pde[held_out:], fresh.pde)
    np.testing.assert_allclose(found.paired[held_out:], fresh.paired, rtol=1e-10)


def test_fresh_samples_are_none_that_a_dataset_of_the_seed_holds(models):
    model = models["linear"]
    for index in range(3):
        own = hd.data.draw_parameter(model.prior, seed_of(Purpose.UQ_PDE, 0), index)
        other = hd.data.draw_parameter(model.prior, 0, index)
        own.axpy(-1.0, other)
        assert own.norm("l2") > 0.1


def test_failed_solves_are_left_out_counted_and_bounded(models, surrogates, monkeypatch):
    model, solve = models["linear"], models["linear"].evalObservable
    calls = []

    def sometimes(m):
        calls.append(1)
        if len(calls) % 5 == 0:
            raise SolveError("diverged on purpose")
        return solve(m)

    monkeypatch.setattr(model, "evalObservable", sometimes)
    found = run(models, surrogates["linear surrogate"])
    assert [f["index"] for f in found.failures] == [4, 9, 14, 19]
    assert len(found.pde) == 16
    assert "diverged on purpose" in found.failures[0]["reason"]
    assert "4 failed" in re.sub(r"\s+", " ", str(found))
    with pytest.raises(SolveError, match="max_failures=1"):
        run(models, surrogates["linear surrogate"], max_failures=1)


def test_one_and_two_ranks_give_the_same(run_python, tmp_path, linear_dino):
    linear_dino.save(tmp_path / "linear.dino")
    code = f"""
import numpy as np, hippylib_dino as hd
from hippylib_dino import uq
from mpi4py import MPI
from tests import problems
for ranks_per_sample in (1, None):
    model = problems.linear(hd.sample_communicator(ranks_per_sample))
    surrogate = hd.SurrogateModel(hd.DINO.load({str(tmp_path / "linear.dino")!r}), model.prior, model.misfit)
    found = uq.control_variate(lambda q: q.mean(axis=1) ** 2, model, surrogate, n_pde=10, n_surrogate=9000,
                               statistics=("mean", "variance", ("exceedance", 0.1)), progress=False)
    everyone = MPI.COMM_WORLD.allgather([e.value for e in found.estimates.values()])
    assert all(values == everyone[0] for values in everyone)
    if MPI.COMM_WORLD.rank == 0:
        print(*(f"{{v:.9e}} {{e:.6e}}" for e in found.estimates.values() for v, e in [(e.value, e.standard_error)]))
"""
    one, two = (run_python(code, ranks=n).stdout.split() for n in (1, 2))
    assert len(one) == len(two) == 12
    np.testing.assert_allclose(np.array(two, dtype=float), np.array(one, dtype=float), rtol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_pde": 1}, "n_pde: expected at least 4"),
        ({"n_pde": 1, "weight": 1.0}, "n_pde: expected at least 2"),
        ({"n_pde": None}, "n_pde: .* got 0"),
        ({"n_surrogate": 10}, "n_surrogate: counts the n_pde = 20 pairs too"),
        ({"statistics": (("exceedance", np.nan),)}, "threshold"),
        ({"statistics": ("median",)}, "statistics: expected"),
        ({"confidence": 1.0}, "confidence"),
        ({"weight": np.inf}, "weight"),
        ({"qoi": lambda q: q}, r"qoi: expected shape \(1,\)"),
        ({"qoi": lambda q: q[:, 0] * np.nan}, "1 of 1 values by the PDE are not finite"),
    ],
)
def test_bad_input(models, surrogates, change, message):
    with pytest.raises(InputError, match=message):
        run(models, surrogates["linear surrogate"], **change)


def test_surrogate_that_is_not_finite_is_reported(models, linear_dino):
    broken = dataclasses.replace(linear_dino, weights=[linear_dino.weights[0], linear_dino.weights[1] * np.nan])
    surrogate = hd.SurrogateModel(broken, models["linear"].prior, models["linear"].misfit)
    with pytest.raises(InputError, match="values by the surrogate are not finite"):
        run(models, surrogate)


def test_surrogate_of_another_problem_and_a_posterior_without_mean(models, surrogates):
    with pytest.raises(FingerprintError):
        run(models, surrogates["confusion surrogate"])
    surrogate = surrogates["linear surrogate"]
    posterior = hd.laplace(surrogate, problems.solve_map(surrogate)[0], rank=9)
    stock = hp.GaussianLRPosterior(surrogate.prior, posterior.d, posterior.U)
    with pytest.raises(InputError, match="mean"):
        run(models, surrogate, posterior=stock)

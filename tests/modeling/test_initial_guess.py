import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.modeling import (
    LinearizedPrediction,
    MeanState,
    NearestSample,
    SampleRegression,
    compare_guesses,
)
from hippylib_dino.modeling.spaces import owned_values
from hippylib_dino.modeling.verify import rate
from tests import problems


@pytest.fixture(scope="module")
def model(models):
    return problems.accelerated(models["confusion"])


@pytest.fixture(scope="module")
def samples(model):
    """24 parameters, smooth enough for a regression in 4 latent coordinates, and their states (n, dU)."""
    draws = np.random.default_rng(1).uniform(-1, 1, (24, 4))
    parameters = [parameter(model, x) for x in draws]
    return parameters, np.array([owned_values(model.solveState(m)) for m in parameters])


def parameter(model, x):
    order = hd.modeling.DofOrder(model.prior.Vh)
    points = order.coordinates[order.owned, 1:]
    m = model.prior.mean.copy()
    values = x[0] + x[1] * points[:, 0] + x[2] * points[:, 1] + x[3] * points[:, 0] * points[:, 1]
    hd.modeling.set_owned_values(m, values)
    return m


def encode(m):
    """Latent coordinates of the smooth parameters: their values at the corners, in dolfin's numbering."""
    values = owned_values(m)
    return values[[0, 40, 150, -1]]


def error(guess, model, m):
    exact = owned_values(model.solveState(m))
    return np.linalg.norm(owned_values(guess(m)) - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("name", ["accelerated_vector", "vector"])
def test_linearized_prediction_is_first_order(models, name):
    """Its error falls with the square of the distance from the mean, the mean state's linearly."""
    model = models[name]
    step = hd.data.draw_parameter(model.prior, 8, 0)
    step.axpy(-1.0, model.prior.mean)
    sizes = 2.0 ** -np.arange(2, 7)
    for guess, order in ((MeanState(model), 1.0), (LinearizedPrediction(model), 2.0)):
        errors = []
        for h in sizes:
            m = model.prior.mean.copy()
            m.axpy(h, step)
            errors.append(error(guess, model, m))
        assert rate(np.array(errors), sizes) == pytest.approx(order, abs=0.1)


def test_linearized_prediction_keeps_its_own_matrices(model):
    guess = LinearizedPrediction(model)
    m = hd.data.draw_parameter(model.prior, 8, 1)
    before = owned_values(guess(m))
    model.jacobian(m).to_dense()
    np.testing.assert_array_equal(owned_values(guess(m)), before)


def test_nearest_sample_finds_the_samples_themselves(model, samples):
    parameters, states = samples
    guess = NearestSample(encode, np.array([encode(m) for m in parameters]), states, model.generate_vector(hp.STATE))
    for m, u in zip(parameters, states, strict=True):
        np.testing.assert_array_equal(owned_values(guess(m)), u)


def test_regression_reproduces_its_samples_and_improves_between(model, samples):
    baseline = LinearizedPrediction(model)
    guess = SampleRegression(baseline, encode, *samples, n_modes=24)
    assert error(guess, model, samples[0][3]) < 1e-8
    m = parameter(model, np.array([0.3, -0.2, 0.4, 0.1]))
    assert error(guess, model, m) < 0.5 * error(baseline, model, m)


def test_comparison_counts_work_and_names_the_best(model, samples):
    test = [parameter(model, x) for x in np.random.default_rng(2).uniform(-0.5, 0.5, (3, 4))]
    baseline = LinearizedPrediction(model)
    guesses = {
        "zero": lambda m: model.generate_vector(hp.STATE),
        "mean": MeanState(model),
        "regression": SampleRegression(baseline, encode, *samples, n_modes=24),
    }
    best, table = compare_guesses(model, guesses, test, factorization_weight=2.0)
    assert best == "regression"
    assert table["regression"].work < table["mean"].work < table["zero"].work
    row = table["mean"]
    assert row.work == row.residual_assemblies + 2.0 * row.factorizations
    assert compare_guesses(model, guesses, test, factorization_weight=2.0) == (best, table)


def test_guess_that_fails_is_counted_and_not_chosen(model):
    def broken(m):
        out = model.generate_vector(hp.STATE)
        out[:] = np.nan
        return out

    m = model.prior.mean
    best, table = compare_guesses(model, {"broken": broken, "mean": MeanState(model)}, [m])
    assert best == "mean"
    assert table["broken"].failures == 1
    with pytest.raises(SolveError, match="residual at the initial guess is not finite"):
        model.solveState(m, broken(m))


def test_models_start_from_the_linearised_prediction_or_what_the_user_says(models):
    fast, plain = models["accelerated_vector"], models["vector"]
    m = hd.data.draw_parameter(fast.prior, 8, 2)
    for model, kind in ((fast, LinearizedPrediction), (plain, MeanState)):
        explicit = model.solveState(m, kind(model)(m))
        np.testing.assert_array_equal(owned_values(model.solveState(m)), owned_values(explicit))
    asked = []

    def own(m):
        asked.append(m)
        return fast.generate_vector(hp.STATE)

    model = hd.JacobianModel(fast.problem, fast.prior, fast.misfit, initial_guess=own)
    np.testing.assert_allclose(model.value(m), fast.value(m), rtol=1e-9)
    assert asked == [m]


def test_wrong_samples_and_problems_are_named(model, models, samples):
    parameters, states = samples
    like = model.generate_vector(hp.STATE)
    with pytest.raises(InputError, match=r"states: expected shape \(24, 289\).*got \(24, 288\)"):
        NearestSample(encode, np.zeros((24, 4)), states[:, 1:], like)
    with pytest.raises(InputError, match=r"n_modes: expected 1 \.\. 24, the number of samples, got 25"):
        SampleRegression(MeanState(model), encode, parameters, states, n_modes=25)
    with pytest.raises(InputError, match="model: expected a problem that reports its forward solves"):
        compare_guesses(models["vector"], {"mean": MeanState(models["vector"])}, [models["vector"].prior.mean])
    with pytest.raises(InputError, match="guesses, parameters: expected some, got 0 and 1"):
        compare_guesses(model, {}, [model.prior.mean])

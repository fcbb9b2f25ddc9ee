import random

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError, TrainingError
from hippylib_dino.network.training import RelativeError, SquaredNorm

QUICK = {"epochs": 120, "batch_size": 8, "hidden": (32, 32), "progress": False}


@pytest.fixture(scope="module")
def value_trained(confusion_dataset):
    return hd.train(confusion_dataset, "l2", **QUICK)


@pytest.fixture(scope="module")
def jacobian_trained(confusion_dataset):
    return hd.train(confusion_dataset, "h1", **QUICK)


def test_loss_and_metric_are_the_formulas(rng):
    truth, guess = rng.standard_normal((2, 6, 3, 4)).astype("float32")
    squares = ((truth - guess) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(float(SquaredNorm()(truth, guess)), squares.mean(), rtol=1e-5)
    weights = 1 / (truth**2).sum(axis=(1, 2))
    metric = RelativeError()
    metric.update_state(truth[:4], guess[:4], weights[:4])  # uneven batches count by sample
    metric.update_state(truth[4:], guess[4:], weights[4:])
    np.testing.assert_allclose(float(metric.result()), np.sqrt((squares * weights).mean()), rtol=1e-5)


def test_training_with_jacobians_beats_values_alone(confusion_dataset, value_trained, jacobian_trained):
    values, derivatives = value_trained.evaluate(confusion_dataset), jacobian_trained.evaluate(confusion_dataset)
    assert derivatives["jacobian"] < 0.7 * values["jacobian"]
    assert derivatives["observable"] < values["observable"]


def test_history_and_provenance_are_kept(jacobian_trained, value_trained):
    history = jacobian_trained.training["history"]
    assert {"loss", "val_loss", "observable_error", "val_jacobian_error"} <= set(history)
    assert len(history["loss"]) == jacobian_trained.training["epochs"] == 120
    assert "val_jacobian_error" not in value_trained.training["history"]
    assert value_trained.training["formulation"] == "l2"


def test_best_weights_are_kept(confusion_dataset):
    """Weights that are spoiled late do not reach the DINO."""
    import keras

    class Spoil(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 60:
                self.model.set_weights([10.0 * w for w in self.model.get_weights()])

    dino = hd.train(confusion_dataset, "h1", **{**QUICK, "epochs": 62}, callbacks=[Spoil()])
    history, best = dino.training["history"], dino.training["best_epoch"]
    assert best <= 60
    assert history["val_loss"][-1] > 2 * history["val_loss"][best - 1]
    errors = dino.evaluate(confusion_dataset, "validation")
    assert errors["reduced_jacobian"] == pytest.approx(history["val_jacobian_error"][best - 1], rel=0.05)


def test_divergence_is_an_error(confusion_dataset):
    with pytest.raises(TrainingError, match=r"training diverged: .* Lower learning_rate"):
        hd.train(confusion_dataset, "h1", **{**QUICK, "epochs": 20, "learning_rate": 1e12})


def test_learning_rate_decays(confusion_dataset):
    from hippylib_dino.network.training import _schedule

    schedule = _schedule(1e-3, steps=100)
    rates = [float(schedule(step)) for step in (0, 5, 50, 100)]
    assert rates[1] == pytest.approx(1e-3)
    assert rates[0] < rates[2] < rates[1]
    assert rates[3] == pytest.approx(0.0, abs=1e-9)


def test_patience_stops_early(confusion_dataset):
    """Without steps nothing improves after the first epoch."""
    dino = hd.train(confusion_dataset, "l2", **{**QUICK, "learning_rate": 0.0, "patience": 3})
    assert dino.training["epochs"] == 4


def test_one_seed_gives_the_same_weights(confusion_dataset):
    short = {**QUICK, "epochs": 3}
    a, b, c = (hd.train(confusion_dataset, "h1", **short, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(x, y) for x, y in zip(a.weights, b.weights, strict=True))
    assert not np.array_equal(a.weights[0], c.weights[0])


def test_global_random_state_is_left_alone(confusion_dataset):
    state = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    hd.train(confusion_dataset, "l2", epochs=1, hidden=(4,), progress=False)
    assert random.getstate() == state[0]
    np.testing.assert_array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"formulation": "h2"}, r"formulation: expected one of \('l2', 'h1'\), got 'h2'"),
        ({"n_train": 1000}, "n: the train split of .* holds 48 finished samples, got 1000"),
        ({"jacobian_weight": 0.0}, "jacobian_weight: expected > 0"),
        ({"activation": "relu"}, "activation: expected one of"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(confusion_dataset, arguments, message):
    with pytest.raises(InputError, match=message):
        hd.train(confusion_dataset, **{"progress": False, **arguments})

import dataclasses
import random
import shutil

import numpy as np
import pytest
import zarr

import hippylib_dino as hd
from hippylib_dino.errors import DatasetError, InputError, TrainingError
from hippylib_dino.network import ReducedDense
from hippylib_dino.network.backend import keras
from hippylib_dino.network.formulations import SketchedH1, TruncatedH1
from hippylib_dino.network.losses import RelativeError, SquaredNorm
from hippylib_dino.network.optimizers import PEAKS, get_optimizer
from hippylib_dino.network.training import _validated

QUICK = {"epochs": 100, "batch_size": 8, "hidden": (32, 32), "progress": False}
SHORT = {"epochs": 3, "batch_size": 8, "hidden": (8,), "optimizer": "adam", "progress": False}


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
    assert len(history["loss"]) == jacobian_trained.training["epochs"] == 100
    assert "val_jacobian_error" not in value_trained.training["history"]
    assert value_trained.training["formulation"] == "l2"


def test_best_weights_are_kept(confusion_dataset):
    """Weights that are spoiled late do not reach the DINO."""

    class Spoil(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 30:
                self.model.set_weights([10.0 * w for w in self.model.get_weights()])

    dino = hd.train(
        confusion_dataset, "h1", **{**SHORT, "epochs": 32, "hidden": (32,)}, keep="best", callbacks=[Spoil()]
    )
    history, best = dino.training["history"], dino.training["best_epoch"]
    assert best <= 30
    assert history["val_loss"][-1] > 2 * history["val_loss"][best - 1]
    errors = dino.evaluate(confusion_dataset, "validation")
    assert errors["reduced_jacobian"] == pytest.approx(history["val_jacobian_error"][best - 1], rel=0.05)


def test_last_weights_are_kept_where_the_rate_has_decayed(confusion_dataset):
    ends = []

    class End(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            ends.append([np.array(w) for w in self.model.get_weights()])

    dino = hd.train(confusion_dataset, "l2", **SHORT, callbacks=[End()])
    for own, last, first in zip(dino.weights, ends[-1], ends[0], strict=True):
        np.testing.assert_array_equal(own, last)
        assert not np.array_equal(own, first)
    assert dino.training["best_epoch"] == 3
    assert (dino.training["keep"], dino.training["n_selection"]) == ("last", 0)
    with pytest.raises(InputError, match=r"keep: expected one of \('best', 'last'\), got 'first'"):
        hd.train(confusion_dataset, "l2", **SHORT, keep="first")


def test_divergence_at_the_end_is_an_error_where_the_last_weights_are_kept(confusion_dataset):
    class Spoil(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                self.model.set_weights([np.nan * w for w in self.model.get_weights()])

    hd.train(confusion_dataset, "l2", **SHORT, callbacks=[Spoil()])  # the best ones were good
    with pytest.raises(TrainingError, match="the last epoch had no finite loss"):
        hd.train(confusion_dataset, "l2", **SHORT, keep="last", callbacks=[Spoil()])


class Stop(keras.callbacks.Callback):
    """Ends a training early, when its second epoch is worse than its first."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.set_weights([3.0 * w for w in self.model.get_weights()])

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


def test_best_weights_are_kept_where_the_rate_has_not_decayed(confusion_dataset):
    cases = {
        "stopped": {"callbacks": [Stop()]},
        "patience": {"patience": 1, "callbacks": [Stop()]},
        "own optimizer": {"optimizer": keras.optimizers.Adam(1e-3)},
    }
    for name, options in cases.items():
        dino = hd.train(confusion_dataset, "l2", **{**SHORT, **options})
        assert dino.training["keep"] == "best", name
        assert dino.training["n_selection"] == 8
        losses = dino.training["history"]["val_loss"]
        assert dino.training["best_epoch"] == 1 + int(np.nanargmin(losses))


# ---- data that no network can learn from -----------------------------------------------------


def _with(monkeypatch, part, **changes):
    """Dataset.split gives other arrays for a part."""
    split = hd.Dataset.split

    def changed(self, name, *args, **kwargs):
        samples = split(self, name, *args, **kwargs)
        if name != part:
            return samples
        arrays = {key: change(getattr(samples, key).copy()) for key, change in changes.items()}
        return dataclasses.replace(samples, **arrays)

    monkeypatch.setattr(hd.Dataset, "split", changed)


def _nan(array):
    array[[2, 5]] = np.nan
    return array


@pytest.mark.parametrize("part", ["train", "validation"])
@pytest.mark.parametrize("name", ["x", "y", "jacobian_energy", "reduced_jacobian"])
def test_what_is_not_finite_is_named_before_the_training(confusion_dataset, monkeypatch, part, name):
    numbers = confusion_dataset.members(part)[[2, 5]]
    _with(monkeypatch, part, **{name: _nan})
    with pytest.raises(InputError, match=rf"array '{name}' of 2 samples \(numbers {numbers[0]}, {numbers[1]}\)"):
        hd.train(confusion_dataset, "h1", **SHORT)


@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_numbers_beyond_single_precision_are_the_noise_of_the_misfit(confusion_dataset, monkeypatch, factor):
    _with(monkeypatch, "train", jacobian_energy=lambda energy: factor * energy)
    with pytest.raises(InputError, match=r"Jacobians of .* have a mean square of .* Check the noise variance"):
        hd.train(confusion_dataset, "h1", **SHORT)


# ---- Keras's global dtype --------------------------------------------------------------------


def test_training_does_not_depend_on_the_global_dtype(run_python, confusion_dataset):
    """Blocks and a stock model, both optimizers, mixed precision; the losses are those of a training without it."""
    code = f"""
import keras, numpy as np
FLOATX
import hippylib_dino as hd
from hippylib_dino.network import StockNetwork
dataset = hd.Dataset.open({str(confusion_dataset.path)!r})
x = keras.Input((24,))
stock = StockNetwork.from_keras(keras.Model(x, keras.layers.Dense(30)(keras.layers.Dense(8, "tanh")(x))))
for formulation, options in (
    ("h1_sketched", {{}}), ("h1", {{"architecture": stock}}), ("l2", {{"precision": "mixed_bfloat16"}}),
    ("h1_truncated", {{"balance": True, "optimizer": "adam"}}),
):
    options = {{"hidden": (8,), "batch_size": 16, "epochs": 2, "progress": False, **options}}
    dino = hd.train(dataset, formulation, **options)
    loss = dino.training["history"]["val_loss"]
    print(formulation, f"{{loss[-1]:.3e}}", {{str(w.dtype) for w in dino.weights}})
    if options["hidden"] and "architecture" not in options:
        print(dino.keras_model().get_layer("network").compute_dtype)
"""
    plain = run_python(code.replace("FLOATX", "")).stdout
    assert plain.count("float32") >= 4
    code += "assert keras.config.floatx() == 'float64'"
    assert run_python(code.replace("FLOATX", 'keras.config.set_floatx("float64")')).stdout == plain


@pytest.mark.parametrize("name", PEAKS)
def test_learning_rate_warms_up_and_decays(name):
    optimizer, peak = get_optimizer(name, None, steps=100)
    assert peak == PEAKS[name]
    assert get_optimizer(name, 1e-3, steps=100)[1] == 1e-3
    rates = []
    for step in (0, 5, 50, 100):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    assert rates[1] == pytest.approx(peak)
    assert rates[0] < rates[2] < rates[1]
    assert rates[3] == pytest.approx(0.0, abs=1e-9)


def test_divergence_is_an_error(confusion_dataset):
    with pytest.raises(TrainingError, match=r"training diverged: .* Lower learning_rate \(it was 1e\+30\)"):
        hd.train(confusion_dataset, "h1", **SHORT, learning_rate=1e30)


def test_patience_stops_early_and_an_optimizer_is_taken_as_it_is(confusion_dataset):
    """Without steps nothing improves after the first epoch."""
    still = keras.optimizers.SGD(0.0)
    dino = hd.train(confusion_dataset, "l2", **{**SHORT, "epochs": 50, "optimizer": still}, patience=3)
    assert dino.training["epochs"] == 4
    assert dino.training["optimizer"] == "sgd"
    assert dino.training["learning_rate"] is None


@pytest.mark.backends
@pytest.mark.parametrize("formulation", ["l2", "h1"])
def test_one_seed_gives_the_same_weights(confusion_dataset, formulation):
    """Wherever Jacobians are read from, and whatever the global random state is, which stays as it is.

    With random directions: in tests/network/test_callbacks.py, where the second run is one that was killed.
    """
    state = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    a = hd.train(confusion_dataset, formulation, **SHORT, seed=1)
    assert random.getstate() == state[0]
    np.testing.assert_array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002
    random.random()
    b = hd.train(confusion_dataset, formulation, **SHORT, seed=1, stream=formulation == "h1")
    assert all(np.array_equal(x, y) for x, y in zip(a.weights, b.weights, strict=True))
    assert a.training["history"] == b.training["history"]


def test_start_goes_on_from_its_weights(confusion_dataset, jacobian_trained):
    still = keras.optimizers.SGD(0.0)
    again = hd.train(confusion_dataset, "h1", epochs=1, optimizer=still, start=jacobian_trained, progress=False)
    assert all(np.array_equal(x, y) for x, y in zip(again.weights, jacobian_trained.weights, strict=True))
    validated = np.array(jacobian_trained.training["history"]["val_loss"])
    last = validated[np.isfinite(validated)][-1]  # whose weights are kept
    assert again.training["history"]["val_loss"][0] == pytest.approx(last, rel=1e-4)


def test_mixed_precision_trains(confusion_dataset):
    """To what float32 reaches; weights are float32."""
    modest = {**SHORT, "epochs": 20, "learning_rate": 1e-2}
    full, mixed = (hd.train(confusion_dataset, "h1", **modest, precision=p) for p in ("float32", "mixed_bfloat16"))
    assert (full.training["precision"], mixed.training["precision"]) == ("float32", "mixed_bfloat16")
    assert {w.dtype for w in mixed.weights} == {np.dtype("float32")}
    full_loss, mixed_loss = (min(dino.training["history"]["val_loss"]) for dino in (full, mixed))
    assert full_loss < 0.5 * full.training["history"]["val_loss"][0]
    assert mixed_loss != full_loss
    assert mixed_loss == pytest.approx(full_loss, rel=0.05)


def test_balance_moves_the_weight_and_trains(confusion_dataset):
    arguments = {**SHORT, "epochs": 30, "hidden": (32,), "learning_rate": 1e-2}
    history = hd.train(confusion_dataset, "h1", **arguments, balance=True).training["history"]
    assert history["balance"][0] == 1.0
    ratio = (history["observable_error"][-1] / history["jacobian_error"][-1]) ** 2
    assert history["balance"][-1] == pytest.approx(ratio, rel=0.1)
    assert history["balance"][-1] != pytest.approx(1.0, rel=0.02)  # there was something to balance
    assert history["val_observable_error"][-1] < 0.5 * history["val_observable_error"][0]


# ---- bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"formulation": "h2"}, r"formulation: expected one of \('l2', 'h1', .*\), .* got 'h2'"),
        ({"formulation": TruncatedH1(rank=25)}, r"rank: expected 1 \.\. 24 singular vectors .* 30 x 24, got 25"),
        ({"formulation": SketchedH1(n_directions=25)}, r"n_directions: expected 1 \.\. 24, the rank of the inputs"),
        ({"n_train": 1000}, "n: the train split of .* holds 48 finished samples, got 1000"),
        ({"n_train": 1}, "n_train: expected at least 2 training samples, got 1"),
        ({"n_validation": 9}, "n: the validation split of .* holds 8 finished samples, got 9"),
        ({"n_validation": 0}, "n: the validation split of .* holds 8 finished samples, got 0"),
        ({"activation": "relu"}, "activation: expected one of"),
        ({"hidden": (0,)}, "hidden: expected positive layer widths"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"optimizer": "newton"}, r"optimizer: expected one of \('muon', .*\) or a keras.*, got 'newton'"),
        ({"learning_rate": 0.0}, "learning_rate: expected > 0, got 0.0"),
        ({"learning_rate": -1e-3}, "learning_rate: expected > 0, got -0.001"),
        ({"precision": "float8"}, r"precision: expected one of \('float32', .*\), got 'float8'"),
        ({"architecture": ReducedDense(24, 29)}, r"architecture: expected ranks \(24, 30\), .* got \(24, 29\)"),
    ],
)
def test_bad_arguments_are_named(confusion_dataset, arguments, message):
    with pytest.raises(InputError, match=message):
        hd.train(confusion_dataset, **{"progress": False, **arguments})


def test_learning_rate_of_an_optimizer_that_has_its_own(confusion_dataset):
    with pytest.raises(InputError, match="learning_rate: the optimizer that is given has its own"):
        hd.train(confusion_dataset, optimizer=keras.optimizers.SGD(0.1), learning_rate=0.1, progress=False)


def test_start_of_another_architecture_is_named(confusion_dataset, jacobian_trained):
    network = ReducedDense(24, 30, hidden=(7,))
    with pytest.raises(InputError, match="architecture: differs from that of start"):
        hd.train(confusion_dataset, architecture=network, start=jacobian_trained, progress=False)
    with pytest.raises(InputError, match="dataset: its input basis is not the one"):
        hd.train(confusion_dataset.truncate(20, 30), start=jacobian_trained, progress=False)


def test_validations_are_spread_over_any_number_of_epochs():
    for epochs in (1, 7, 50, 53, 167, 1000):
        validated = _validated(epochs)
        assert validated[-1] == epochs
        assert min(epochs, 25) <= len(validated) <= 50
        assert max(np.diff([0, *validated])) <= -(-epochs // 50)


def test_balance_without_a_jacobian_term_is_refused(confusion_dataset):
    with pytest.raises(InputError, match="balance: needs a Jacobian term"):
        hd.train(confusion_dataset, "l2", balance=True, progress=False)


def test_rank_beyond_the_basis_is_named(confusion_dataset):
    with pytest.raises(hd.errors.RankError, match="input_rank"):
        confusion_dataset.truncate(25, 30)


@pytest.fixture
def altered(confusion_dataset, tmp_path):
    """Change arrays of a copy of the dataset."""

    def alter(change):
        shutil.copytree(confusion_dataset.path, tmp_path / "altered")
        change(zarr.open_group(tmp_path / "altered", mode="r+"))
        return hd.Dataset.open(tmp_path / "altered")

    return alter


@pytest.mark.parametrize("name", ["x", "y", "reduced_jacobian"])
def test_samples_that_are_not_finite_are_named(altered, name):
    def spoil(group):
        values = group[name][5]
        values.flat[0] = np.nan
        group[name][5] = values

    with pytest.raises(DatasetError, match=f"sample 5 of array '{name}' is missing or not finite"):
        hd.train(altered(spoil), "h1", progress=False)


def test_a_split_that_leaks_is_refused(altered):
    def leak(group):
        group["x"][50] = group["x"][3]

    with pytest.raises(InputError, match=r"dataset: validation samples \[50\] are training samples too"):
        hd.train(altered(leak), "l2", progress=False)

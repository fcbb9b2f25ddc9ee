"""A training that was killed goes on from its checkpoint, and ends as it would have."""

import csv
import shutil
import signal

import keras
import numpy as np
import pytest
import zarr

import hippylib_dino as hd
from hippylib_dino.errors import ModelFileError
from hippylib_dino.network import callbacks

EPOCHS, KILLED = 12, 7
SHORT = {"epochs": EPOCHS, "batch_size": 8, "hidden": (8,), "balance": True, "seed": 5, "progress": False}


class Stopped(Exception):
    pass


class Stop(keras.callbacks.Callback):
    """An end that nobody expects."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == KILLED:
            raise Stopped


@pytest.fixture(scope="module")
def uninterrupted(confusion_dataset):
    return hd.train(confusion_dataset, "h1_sketched", **SHORT)


@pytest.fixture(scope="module")
def stopped_once(confusion_dataset, tmp_path_factory):
    log = tmp_path_factory.mktemp("stopped") / "log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(callbacks.Checkpoint.__init__.__kwdefaults__, "interval", 0.0)
        with pytest.raises(Stopped):
            hd.train(confusion_dataset, "h1_sketched", **SHORT, log=log, callbacks=[Stop()])
    return log


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """The log of a training that ended before its time."""
    return shutil.copytree(stopped_once, tmp_path / "log")


def _assert_same(dino, other):
    assert all(np.array_equal(a, b) for a, b in zip(dino.weights, other.weights, strict=True))
    np.testing.assert_equal(dino.training["history"], other.training["history"])
    assert dino.training["best_epoch"] == other.training["best_epoch"]
    assert dino.training["epochs"] == other.training["epochs"] == EPOCHS


def _rows(log):
    with open(log / "history.csv", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.backends
def test_the_same_call_ends_with_the_same_weights(confusion_dataset, uninterrupted, stopped):
    """Bitwise, with random directions and a moving balance; history.csv has one row an epoch."""
    assert [int(row["epoch"]) for row in _rows(stopped)] == list(range(KILLED))
    resumed = hd.train(confusion_dataset, "h1_sketched", **SHORT, log=stopped)
    _assert_same(resumed, uninterrupted)
    rows = _rows(stopped)
    assert [int(row["epoch"]) for row in rows] == list(range(EPOCHS))
    history = uninterrupted.training["history"]
    np.testing.assert_allclose([float(row["loss"]) for row in rows], history["loss"], rtol=1e-6)


KILL = """
import os, signal
import keras
import hippylib_dino as hd
from hippylib_dino.network import callbacks

class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == {step}:
            os.kill(os.getpid(), signal.SIGKILL)

written = callbacks.Checkpoint.write
# only some epochs are kept: those after the last one kept are computed twice
callbacks.Checkpoint.write = lambda self, epoch: epoch in (2, 5) and written(self, epoch)
callbacks.Checkpoint.__init__.__kwdefaults__["interval"] = 0.0
hd.train(hd.Dataset.open({path!r}), "h1_sketched", **{short}, log={log!r}, callbacks=[Kill()])
"""


def test_a_kill_in_the_middle_of_an_epoch(confusion_dataset, uninterrupted, run_python, tmp_path):
    """SIGKILL two epochs after the last checkpoint: they are computed again, and listed once."""
    log = tmp_path / "log"
    code = KILL.format(path=str(confusion_dataset.path), short=SHORT, log=str(log), step=KILLED * 6 + 3)
    assert run_python(code, check=False).returncode == -signal.SIGKILL
    resumed = hd.train(confusion_dataset, "h1_sketched", **SHORT, log=log)
    _assert_same(resumed, uninterrupted)
    assert [int(row["epoch"]) for row in _rows(log)] == list(range(EPOCHS))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 6}, "seed"),
        ({"epochs": 24}, "epochs"),
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"hidden": (9,)}, "architecture"),
        ({"activation": "tanh"}, "architecture"),
    ],
)
def test_checkpoint_of_another_training_is_refused(confusion_dataset, stopped, changes, name):
    with pytest.raises(ModelFileError, match=rf"other settings or data, which differ in \[.*'{name}'.*\]\. Choose"):
        hd.train(confusion_dataset, "h1_sketched", **{**SHORT, **changes}, log=stopped)


def test_checkpoint_of_other_data_is_refused(confusion_dataset, stopped, tmp_path):
    shutil.copytree(confusion_dataset.path, tmp_path / "other")
    y = zarr.open_group(tmp_path / "other", mode="r+")["y"]
    y[3] = 1.01 * y[3]
    for other in (hd.Dataset.open(tmp_path / "other"), confusion_dataset.truncate(20, 30)):
        with pytest.raises(ModelFileError, match="belongs to a training with other settings or data"):
            hd.train(other, "h1_sketched", **SHORT, log=stopped)


def test_damaged_checkpoint_is_named(confusion_dataset, stopped):
    path = stopped / "checkpoint.npz"
    content = path.read_bytes()
    altered = bytearray(content)
    middle = len(content) // 2
    altered[middle : middle + 256] = bytes(256)  # more than what a ZIP file has between its members
    for damaged in (content[: len(content) // 2], bytes(altered), b"no archive"):
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"log: .*checkpoint.npz cannot be read .*Remove it to train anew"):
            hd.train(confusion_dataset, "h1_sketched", **SHORT, log=stopped)


def test_a_checkpoint_is_replaced_as_a_whole(stopped):
    assert not list(stopped.glob("*.partial"))


# ---- callbacks by themselves -------------------------------------------------------------


def test_recorder_marks_what_was_not_measured():
    recorder = callbacks.Recorder()
    for epoch, logs in enumerate(({"loss": 3.0}, {"loss": 2.0, "val_loss": 2.5}, {"loss": 1.0})):
        recorder.on_epoch_end(epoch, logs)
    np.testing.assert_equal(recorder.history, {"loss": [3.0, 2.0, 1.0], "val_loss": [np.nan, 2.5, np.nan]})


def test_best_weights_ignore_losses_that_are_not_finite():
    best, model = callbacks.BestWeights(patience=2), keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    best.set_model(model)
    model.stop_training = False
    for epoch, loss in enumerate((np.nan, 2.0, 1.0, np.nan)):
        best.on_epoch_end(epoch, {"val_loss": loss})
    assert (best.loss, best.epoch) == (1.0, 2)
    assert not model.stop_training
    best.on_epoch_end(4, {})
    assert not model.stop_training
    best.on_epoch_end(5, {"val_loss": 1.5})
    assert model.stop_training


def test_balance_goes_half_the_way_to_equal_terms():
    class Weights:
        balance = 4.0

    balance = callbacks.Balance(Weights)
    logs = {"observable_error": 0.1, "jacobian_error": 0.4}  # the latter times the root of the weight
    balance.on_epoch_end(0, logs)
    assert logs == {"observable_error": 0.1, "jacobian_error": 0.2, "balance": 4.0}
    ratio = (0.1 / 0.2) ** 2
    assert Weights.balance == pytest.approx(np.sqrt(4.0 * ratio))
    while abs(Weights.balance - ratio) > 1e-9:
        balance.on_epoch_end(1, {"observable_error": 0.1, "jacobian_error": 0.2 * np.sqrt(Weights.balance)})

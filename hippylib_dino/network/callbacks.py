"""Keras callbacks of a training: progress, best weights, checkpoint, balance of the loss."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hippylib_dino.errors import ModelFileError
from hippylib_dino.files import write_file
from hippylib_dino.network.backend import keras
from hippylib_dino.network.batches import Batches


class Progress(keras.callbacks.Callback):
    """One bar over the epochs, with the errors that matter."""

    def __init__(self, epochs: int, label: str, first: int = 0):
        super().__init__()
        self.epochs, self.label, self.first = epochs, label, first

    def on_train_begin(self, logs=None):
        self.bar = tqdm(total=self.epochs, initial=self.first, desc=self.label, unit="epoch", mininterval=0.5)

    def on_epoch_end(self, epoch, logs=None):
        shown = {k: v for k, v in (logs or {}).items() if k.startswith("val_") and k.endswith("error")}
        if shown:
            self.bar.set_postfix({k.removeprefix("val_"): f"{v:.2%}" for k, v in shown.items()}, refresh=False)
        self.bar.update()

    def on_train_end(self, logs=None):
        self.bar.close()


class BestWeights(keras.callbacks.Callback):
    """Keeps the weights of the best validation loss, and ends a training that does not improve any more.

    Parameters
    ----------
    patience : int, optional
        Epochs without improvement.

    Attributes
    ----------
    weights : list of arrays, or None before there was a finite loss
    loss : float
    epoch : int
        Of these weights, from 0.
    """

    def __init__(self, patience: int | None = None):
        super().__init__()
        self.patience = patience
        self.weights: list[np.ndarray] | None = None
        self.loss, self.epoch = np.inf, -1

    def on_epoch_end(self, epoch, logs=None):
        loss = (logs or {}).get("val_loss")
        if loss is None:  # not measured in this epoch
            return
        if loss < self.loss:
            self.weights = [np.array(w) for w in self.model.get_weights()]
            self.loss, self.epoch = float(loss), epoch
        elif self.patience is not None and epoch - self.epoch >= self.patience:
            self.model.stop_training = True


class Balance(keras.callbacks.Callback):
    """Moves the weight of the Jacobian term so that both terms of the loss weigh the same.

    After each epoch the weight goes half the way, on a log scale, to the ratio of the two relative errors squared.
    First among the callbacks, since it takes the weight out of the error that they see.

    Parameters
    ----------
    batches : Batches
        Of the training.
    """

    def __init__(self, batches: Batches):
        super().__init__()
        self.batches = batches

    def on_epoch_end(self, epoch, logs=None):
        logs["jacobian_error"] /= np.sqrt(self.batches.balance)
        logs["balance"] = self.batches.balance
        value, jacobian = logs["observable_error"], logs["jacobian_error"]
        if value > 0 and jacobian > 0:
            self.batches.balance = float(np.sqrt(self.batches.balance) * value / jacobian)


class Recorder(keras.callbacks.Callback):
    """The history by epoch, NaN where something was not measured.

    Attributes
    ----------
    history : dict of lists
    """

    def __init__(self):
        super().__init__()
        self.history: dict[str, list[float]] = {}

    def on_epoch_end(self, epoch, logs=None):
        for key, value in (logs or {}).items():
            self.history.setdefault(key, [float("nan")] * epoch).append(float(value))
        for values in self.history.values():
            values += [float("nan")] * (epoch + 1 - len(values))


class HistoryTable(keras.callbacks.CSVLogger):
    """Keras's CSV file, which after a resume keeps the columns that it has."""

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if self.append and not self.append_header:
            self.keys = Path(self.filename).read_text().splitlines()[0].split(self.sep)[1:]


class Checkpoint(keras.callbacks.Callback):
    """All that a training needs to go on after a kill, in one file that is always whole.

    Last among the callbacks, since it keeps what the others hold.

    Parameters
    ----------
    path : Path
    settings : str
        Of the training, as JSON; a checkpoint of another one is refused.
    batches : Batches
    best : BestWeights
    recorder : Recorder
    interval : float
        Seconds between two checkpoints.
    """

    def __init__(
        self,
        path: Path,
        settings: str,
        *,
        batches: Batches,
        best: BestWeights,
        recorder: Recorder,
        interval: float = 10.0,
    ):
        super().__init__()
        self.path, self.settings, self.interval = path, settings, interval
        self.batches, self.best, self.recorder = batches, best, recorder
        self._written = time.monotonic()

    def restore(self, model) -> int:
        """Bring model, optimizer and callbacks to the state on disk; the next epoch, 0 where there is none.

        Raises
        ------
        ModelFileError
            If the checkpoint cannot be read, or belongs to another training.
        """
        if not self.path.exists():
            return 0
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                arrays = dict(stored)
            settings, epoch = str(arrays["settings"]), int(arrays["epoch"])
        except Exception as error:  # NumPy and zipfile raise what they please on damaged bytes
            raise ModelFileError(f"log: {self.path} cannot be read ({error}). Remove it to train anew.") from error
        if settings != self.settings:
            was, now = json.loads(settings), json.loads(self.settings)
            others = sorted(name for name in {*was, *now} if was.get(name) != now.get(name))
            raise ModelFileError(
                f"log: {self.path} belongs to a training with other settings or data, which differ in {others}. "
                "Choose another folder, or remove it."
            )
        model.optimizer.build(model.trainable_variables)
        for i, variable in enumerate([*model.weights, *model.optimizer.variables]):
            variable.assign(arrays[f"state/{i}"])
        if "best/0" in arrays:
            self.best.weights = [arrays[f"best/{i}"] for i in range(len(model.weights))]
            self.best.loss, self.best.epoch = float(arrays["best_loss"]), int(arrays["best_epoch"])
        history = {k.removeprefix("history/"): v.tolist() for k, v in arrays.items() if k.startswith("history/")}
        self.recorder.history = history
        self.batches.start(epoch, float(arrays["balance"]))
        return epoch

    def on_epoch_end(self, epoch, logs=None):
        if time.monotonic() - self._written >= self.interval:
            self.write(epoch + 1)

    def write(self, epoch: int) -> None:
        """Write the state before `epoch`."""
        variables = [*self.model.weights, *self.model.optimizer.variables]
        arrays = {f"state/{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(variables)}
        arrays.update({f"best/{i}": w for i, w in enumerate(self.best.weights or [])})
        arrays.update({f"history/{k}": np.array(v) for k, v in self.recorder.history.items()})
        scalars: dict = {
            "epoch": epoch,
            "settings": self.settings,
            "best_loss": self.best.loss,
            "best_epoch": self.best.epoch,
            "balance": self.batches.balance,
        }
        write_file(self.path, lambda stream: np.savez(stream, **scalars, **arrays))
        self._written = time.monotonic()

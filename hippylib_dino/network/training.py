"""Training of a DINO by Keras's own `compile` and `fit`."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from hippylib_dino.data.dataset import Dataset, Samples
from hippylib_dino.errors import InputError, TrainingError
from hippylib_dino.network.architecture import ReducedDense
from hippylib_dino.network.backend import keras
from hippylib_dino.network.dino import DINO

FORMULATIONS = ("l2", "h1")


@keras.saving.register_keras_serializable(package="hippylib_dino")
class SquaredNorm(keras.losses.Loss):
    """‖truth - prediction‖² of each sample, mean over the batch.

    Divided by the truth's own ‖·‖² through the sample weights, it is the relative squared error
    of tomoleary/dino's losses: mean_i ‖q_i - q̂_i‖²/‖q_i‖² and mean_i ‖J_i - Ĵ_i‖²/‖J_i‖².
    """

    def call(self, y_true, y_pred):
        axes = tuple(range(1, len(y_pred.shape)))
        return keras.ops.sum(keras.ops.square(y_true - y_pred), axis=axes)


@keras.saving.register_keras_serializable(package="hippylib_dino")
class RelativeError(keras.metrics.Metric):
    """sqrt(mean_i w_i ‖truth_i - prediction_i‖²) over all samples of an epoch, w_i = 1/‖truth_i‖²."""

    def __init__(self, name="error", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_weight(name="total", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        ops = keras.ops
        squares = SquaredNorm().call(y_true, y_pred)
        weight = ops.ones_like(squares) if sample_weight is None else ops.cast(sample_weight, squares.dtype)
        self.total.assign_add(ops.sum(squares * weight))
        self.count.assign_add(ops.cast(ops.shape(squares)[0], self.count.dtype))

    def result(self):
        return keras.ops.sqrt(self.total / keras.ops.maximum(self.count, 1.0))


class _Batches(keras.utils.PyDataset):
    """Batches of samples, shuffled by a stream of their own so that a seed fixes the whole training."""

    def __init__(self, samples: Samples, batch_size: int, rng: np.random.Generator | None):
        super().__init__()
        self.rng, self.batch_size = rng, batch_size
        self.order = np.arange(len(samples))
        self.x = samples.x.astype("float32")
        self.truth = {"observable": samples.y.astype("float32"), "jacobian": samples.reduced_jacobian.astype("float32")}
        self.weight = {
            "observable": (1.0 / samples.observable_energy).astype("float32"),
            "jacobian": (1.0 / samples.jacobian_energy).astype("float32"),
        }
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, i: int):
        pick = self.order[i * self.batch_size : (i + 1) * self.batch_size]
        return (
            self.x[pick],
            {k: v[pick] for k, v in self.truth.items()},
            {k: v[pick] for k, v in self.weight.items()},
        )

    def on_epoch_end(self) -> None:
        if self.rng is not None:
            self.rng.shuffle(self.order)


class _Progress(keras.callbacks.Callback):
    """One bar over the epochs, with the errors that matter."""

    def __init__(self, epochs: int, label: str):
        super().__init__()
        self.epochs, self.label = epochs, label

    def on_train_begin(self, logs=None):
        self.bar = tqdm(total=self.epochs, desc=self.label, unit="epoch", mininterval=0.5)

    def on_epoch_end(self, epoch, logs=None):
        shown = {k: v for k, v in (logs or {}).items() if k.startswith("val_") and k.endswith("error")}
        self.bar.set_postfix({k.removeprefix("val_"): f"{v:.2%}" for k, v in shown.items()}, refresh=False)
        self.bar.update()

    def on_train_end(self, logs=None):
        self.bar.close()


def _schedule(peak: float, steps: int):
    """Linear warm-up over the first twentieth of the steps, then cosine decay to zero."""
    warm_up = max(1, steps // 20)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=peak / warm_up,
        warmup_target=peak,
        warmup_steps=warm_up,
        decay_steps=max(1, steps - warm_up),
    )


def train(
    dataset: Dataset,
    formulation: str = "h1",
    *,
    n_train: int | None = None,
    epochs: int = 400,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    hidden: tuple[int, ...] = (192, 192, 192),
    activation: str = "gelu",
    jacobian_weight: float = 1.0,
    patience: int | None = None,
    seed: int = 0,
    callbacks: list | None = None,
    progress: bool = True,
) -> DINO:
    """Train a reduced-basis dense DINO on values (and Jacobians) of a dataset.

    Adam with warm-up and cosine decay; the weights of the best validation loss are kept.
    Training uses float32; the returned DINO evaluates in float64.

    Parameters
    ----------
    dataset : Dataset
    formulation : "h1" or "l2"
        With or without the Jacobian term in the loss.
    n_train : int, optional
        First training samples to use; default all.
    epochs, batch_size : int
    learning_rate : float
        Peak.
    hidden, activation
        See `ReducedDense`.
    jacobian_weight : float
        Of the relative squared Jacobian error against that of the observable ("h1" only).
    patience : int, optional
        Stop after so many epochs without a better validation loss; default never, so that the
        learning rate decays to zero.
    seed : int
        Weights and shuffling; one seed gives the same DINO on one machine.
    callbacks : list of keras.callbacks.Callback, optional
    progress : bool

    Returns
    -------
    DINO

    Raises
    ------
    InputError
        For an unknown formulation, or too few samples.
    TrainingError
        If no epoch had a finite validation loss.
    """
    if formulation not in FORMULATIONS:
        raise InputError(f"formulation: expected one of {FORMULATIONS}, got {formulation!r}.")
    if formulation == "h1" and jacobian_weight <= 0:
        raise InputError(f'jacobian_weight: expected > 0 for "h1", got {jacobian_weight}; use formulation="l2".')
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}.")
    samples, held_out = dataset.split("train", n_train), dataset.split("validation")
    if len(held_out) == 0:
        raise InputError("dataset: has no validation samples; generate with n_validation of at least 1.")
    architecture = ReducedDense(
        input_rank=samples.x.shape[1],
        output_rank=samples.y.shape[1],
        hidden=hidden,
        activation=activation,
        output_scale=float(np.sqrt((samples.y**2).mean())),
    )
    model = architecture.keras_model(seed)
    batches = _Batches(samples, batch_size, np.random.default_rng(seed))
    loss = {"observable": SquaredNorm(), "jacobian": SquaredNorm() if formulation == "h1" else None}
    metrics = {name: [RelativeError()] for name in ("observable", "jacobian") if loss[name] is not None}
    schedule = _schedule(learning_rate, epochs * len(batches))
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss=loss,
        loss_weights={"observable": 1.0, "jacobian": jacobian_weight if formulation == "h1" else 0.0},
        weighted_metrics=metrics,
        jit_compile=True,
    )
    keep_best = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=epochs if patience is None else patience, restore_best_weights=True
    )
    history = model.fit(
        batches,
        validation_data=_Batches(held_out, batch_size, None),
        epochs=epochs,
        shuffle=False,  # _Batches shuffles, from its own seed
        verbose=0,
        callbacks=[
            keep_best,
            *([_Progress(epochs, f"training {formulation}")] if progress else []),
            *(callbacks or []),
        ],
    ).history
    if not np.isfinite(history["val_loss"]).any():
        raise TrainingError(
            f"training diverged: no epoch had a finite validation loss. Lower learning_rate (it was {learning_rate})."
        )
    return DINO(
        architecture=architecture,
        weights=[np.asarray(w) for w in model.get_weights()],
        input_basis=dataset.input_basis,
        output_basis=dataset.output_basis,
        fingerprint=dataset.fingerprint,
        training={
            "formulation": formulation,
            "n_train": len(samples),
            "epochs": len(history["loss"]),
            "best_epoch": int(np.nanargmin(history["val_loss"])) + 1,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "jacobian_weight": jacobian_weight,
            "seed": seed,
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
            "history": {k: [float(v) for v in values] for k, values in history.items()},
        },
    )

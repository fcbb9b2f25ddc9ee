"""Training of a DINO by Keras's own `compile` and `fit`."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from hippylib_dino.data.dataset import Dataset, Samples
from hippylib_dino.errors import InputError, TrainingError, TrainingWarning
from hippylib_dino.files import write_file
from hippylib_dino.network.architecture import SOME, ReducedDense, TrainableArchitecture
from hippylib_dino.network.backend import keras, single_precision
from hippylib_dino.network.batches import Batches
from hippylib_dino.network.callbacks import Balance, BestWeights, Checkpoint, HistoryTable, Progress, Recorder
from hippylib_dino.network.dino import DINO, check_bases
from hippylib_dino.network.formulations import Formulation, JacobianFormulation, formulation_name, get_formulation
from hippylib_dino.network.losses import RelativeError, SquaredNorm
from hippylib_dino.network.optimizers import get_optimizer
from hippylib_dino.network.sizes import account_of_silent, check_data, spread

STEPS, FEWEST, STEPS_A_SAMPLE = 1000, 400, 8  # of the optimizer, where `epochs` is left open
VALIDATIONS = 50  # at most, in one training
AT_ONCE = 512  # validation samples in a batch
KEEPS = ("best", "last")
LEAST_HELD = 0.5  # of the control's Jacobian, by the bases
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@single_precision()
def train(
    dataset: Dataset,
    formulation: str | Formulation = "h1",
    *,
    architecture: TrainableArchitecture | None = None,
    hidden: tuple[int, ...] = (192, 192, 192),
    activation: str = "gelu",
    n_train: int | None = None,
    n_validation: int | None = None,
    epochs: int | None = None,
    batch_size: int = 32,
    optimizer: str | keras.optimizers.Optimizer = "muon",
    learning_rate: float | None = None,
    balance: bool = False,
    precision: str = "float32",
    patience: int | None = None,
    keep: str | None = None,
    start: DINO | None = None,
    seed: int = 0,
    stream: bool = False,
    log: str | Path | None = None,
    callbacks: list | None = None,
    progress: bool = True,
) -> DINO:
    """Train a DINO on values (and Jacobians) of a dataset.

    The learning rate warms up and decays to zero.
    The returned DINO evaluates in float64.

    Parameters
    ----------
    dataset : Dataset
    formulation : str or Formulation
        "h1", "l2", "h1_truncated", "h1_sketched", or one of `hippylib_dino.network.formulations` with its parameters.
    architecture : TrainableArchitecture, optional
        Default that of `start`, or `ReducedDense` with `hidden` and `activation`.
    hidden, activation
        See `ReducedDense`.
    n_train : int, optional
        First training samples to use; default all.
    n_validation : int, optional
        First validation samples to use; default a quarter of the training samples, at least 16, as far as there are.
    epochs : int, optional
        Default what makes 8 steps of the optimizer for each sample, at least 400 and at most 1000 in all: more of them
        only fit a small set closer.
    batch_size : int
        At most a quarter of the training samples is taken.
    optimizer : "muon", "adam", "adamw" or keras.optimizers.Optimizer
        An instance is taken as it is, with its own learning rate.
    learning_rate : float, optional
        Peak; default what suits the optimizer.
    balance : bool
        Move the weight of the Jacobian term so that both terms contribute the same, but for `jacobian_weight`.
    precision : "float32", "mixed_bfloat16" or "mixed_float16"
        Of the arithmetic; weights stay float32.
    patience : int, optional
        Stop after so many epochs without a better validation loss; default never, so that the
        learning rate decays to zero.
    keep : "best" or "last", optional
        The weights of the best validation loss, or of the last epoch.  Default the last where the learning rate has
        decayed to zero by then and the loss is finite, the best where it has not: after an early stop, or with an
        optimizer of your own.
    start : DINO, optional
        Go on from its weights; of the same architecture.
    seed : int
        Weights, shuffling, random directions; one seed gives the same DINO on one machine.
    stream : bool
        Read Jacobians from disk batch by batch, for those that do not fit in memory.
    log : path, optional
        Folder for ``history.csv``, TensorBoard's events (where TensorBoard is installed) and a checkpoint: the same
        call again goes on from there after a kill, and ends with the same weights.
    callbacks : list of keras.callbacks.Callback, optional
    progress : bool

    Returns
    -------
    DINO

    Raises
    ------
    InputError
        For an unknown formulation, too few samples, training samples among the validation samples, or data that are
        not finite or beyond single precision.
    TrainingError
        If no epoch had a finite validation loss.
    """
    formulation = get_formulation(formulation)
    _check_numbers(epochs, batch_size, precision, keep)
    samples, held_out = _samples(dataset, n_train, n_validation, stream)
    size_of_errors = spread(samples, dataset)
    for part in (samples, held_out):
        check_data(part, size_of_errors, dataset)
    for said in account_of_silent(samples):
        warnings.warn(f"dataset: {said}", TrainingWarning, stacklevel=2)
    ranks = (samples.x.shape[1], samples.y.shape[1])
    formulation.check(*ranks)
    if balance and not isinstance(formulation, JacobianFormulation):
        raise InputError('balance: needs a Jacobian term, which "l2" has not; leave it out, or train "h1".')
    _check_control(samples, dataset)
    network = _started(start, architecture, dataset) or ReducedDense(*ranks, hidden=hidden, activation=activation)
    if (network.input_rank, network.output_rank) != ranks:
        raise InputError(
            f"architecture: expected ranks {ranks}, those of the dataset, got "
            f"{(network.input_rank, network.output_rank)}."
        )
    network = network.fitted(samples, dataset, formulation)
    batch_size = min(batch_size, max(1, len(samples) // 4))
    read = dataset.jacobians if stream else None
    batches, validation = (
        Batches(part, network.inputs(part, dataset), formulation, size_of_errors, size, seed=shuffle, read=read)
        for part, size, shuffle in ((samples, batch_size, seed), (held_out, min(len(held_out), AT_ONCE), None))
    )
    if epochs is None:
        epochs = -(-int(np.clip(STEPS_A_SAMPLE * len(samples), FEWEST, STEPS)) // len(batches))
    decays = isinstance(optimizer, str)
    optimizer, learning_rate = get_optimizer(optimizer, learning_rate, epochs * len(batches))
    model = network.keras_model(seed, formulation.outputs(*ranks), precision)
    if start is not None:
        model.set_weights(start.weights)
    settings = {
        "formulation": formulation_name(formulation),
        **{k: v for k, v in formulation.get_config().items() if k != "kind"},
        "n_train": len(samples),
        "n_validation": len(held_out),
        "batch_size": batch_size,
        "optimizer": type(optimizer).__name__.lower(),  # its name counts the instances of a process
        "learning_rate": learning_rate,
        "balance": balance,
        "precision": precision,
        "seed": seed,
    }
    if precision == "mixed_float16":  # small gradients are zero in it
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    _compile(model, formulation, optimizer, batches.by_column)
    best, recorder = BestWeights(patience), Recorder()
    used = [*([Balance(batches)] if balance else []), best, recorder, *(callbacks or [])]
    first = 0
    if log is not None:
        identity = {
            **settings,
            "epochs": epochs,
            "architecture": network.get_config(),
            "optimizer settings": _settings_of(optimizer),
            "data": _digest(samples.x, samples.y, held_out.x),
            "start": None if start is None else _digest(*start.weights),
        }
        logged, first = _logging(Path(log), model, identity, batches=batches, best=best, recorder=recorder)
        used += logged
    if progress:
        used.append(Progress(epochs, f"training {settings['formulation']}", first))
    started = time.perf_counter()
    model.fit(
        batches,
        validation_data=validation,
        validation_freq=_validated(epochs),
        epochs=epochs,
        initial_epoch=first,
        shuffle=False,  # Batches shuffles, from its own seed
        verbose=0,
        callbacks=used,
    )
    seconds = time.perf_counter() - started
    n_epochs = len(recorder.history["loss"])
    if keep is None:
        keep = "last" if decays and n_epochs == epochs and np.isfinite(recorder.history["loss"][-1]) else "best"
    last = keep == "last"
    if best.weights is None or (last and not np.isfinite(recorder.history["loss"][-1])):
        which = "the last epoch had no finite" if last else "no epoch had a finite validation"
        raise TrainingError(f"training diverged: {which} loss. Lower learning_rate (it was {learning_rate}).")
    kept = [np.array(w) for w in model.get_weights()] if last else best.weights
    trained, weights, basis = network.finished(kept, dataset)
    return DINO(
        architecture=trained,
        weights=weights,
        input_basis=basis,
        output_basis=dataset.output_basis,
        fingerprint=dataset.fingerprint,
        training={
            **settings,
            "epochs": n_epochs,
            "keep": keep,
            "best_epoch": n_epochs if last else best.epoch + 1,
            "n_selection": 0 if last and n_epochs == epochs else len(held_out),  # validation samples that chose it
            "seconds": round(seconds, 1),
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
            "history": recorder.history,
        },
    )


def _check_numbers(epochs: int | None, batch_size: int, precision: str, keep: str | None) -> None:
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}.")
    if precision not in PRECISIONS:
        raise InputError(f"precision: expected one of {PRECISIONS}, got {precision!r}.")
    if keep is not None and keep not in KEEPS:
        raise InputError(f"keep: expected one of {KEEPS}, got {keep!r}.")


def _samples(dataset: Dataset, n_train: int | None, n_validation: int | None, stream: bool) -> tuple[Samples, Samples]:
    """Training and validation samples."""
    samples = dataset.split("train", n_train, jacobians=not stream)
    there = len(dataset.members("validation"))
    if len(samples) < 2:
        raise InputError(f"n_train: expected at least 2 training samples, got {len(samples)}.")
    if there == 0:
        raise InputError("dataset: has no validation samples; generate with n_validation of at least 1.")
    n = min(there, max(16, len(samples) // 4)) if n_validation is None else n_validation
    held_out = dataset.split("validation", n, jacobians=not stream)
    trained_on = {row.tobytes() for row in samples.x}
    leaked = [int(i) for i, row in zip(held_out.index, held_out.x, strict=True) if row.tobytes() in trained_on]
    if leaked:
        raise InputError(
            f"dataset: validation samples {leaked[:5]} are training samples too, so that the validation loss tells "
            "nothing. Generate the dataset again."
        )
    return samples, held_out


def _check_control(samples: Samples, dataset: Dataset) -> None:
    """Raise `InputError` where the outputs hardly see the control."""
    if samples.control_jacobian_energy is None:
        return
    if not samples.control_jacobian_energy.any():
        raise InputError(
            "dataset: the observable of no training sample depends on the control. Check that it stands in the form, "
            "or generate without a control."
        )
    some = samples.reduced_jacobian[:SOME]
    jacobians = some if len(some) else dataset.jacobians(samples.index[:SOME])
    held = (jacobians[:, :, -samples.control_rank :] ** 2).sum() / samples.control_jacobian_energy[:SOME].sum()
    if held < LEAST_HELD:
        raise InputError(
            f"dataset: its output and control bases hold {held:.0%} of the control's influence on the observable, "
            f"expected at least {LEAST_HELD:.0%}. Generate with a larger output_rank, without control_rank, or with "
            "more n_basis_samples."
        )


def _started(
    start: DINO | None, architecture: TrainableArchitecture | None, dataset: Dataset
) -> TrainableArchitecture | None:
    """The architecture that is given, or that of the DINO to go on from."""
    if start is None:
        return architecture
    if not isinstance(start.architecture, TrainableArchitecture):
        raise InputError(f"start: expected a DINO that Keras trained, got one of {type(start.architecture).__name__}.")
    check_bases(start, dataset)
    if architecture not in (None, start.architecture):
        raise InputError(
            "architecture: differs from that of start in its kind, widths or scales. Leave it out to go on from start."
        )
    return start.architecture


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()[:16]


def _settings_of(optimizer) -> str:
    serialized = keras.saving.serialize_keras_object(optimizer)
    serialized["config"].pop("name", None)  # which counts the instances of a process
    return _digest(np.frombuffer(json.dumps(serialized, sort_keys=True, default=str).encode(), dtype=np.uint8))


def _compile(model, formulation: Formulation, optimizer, by_column: bool = False) -> None:
    loss = {"observable": SquaredNorm()}
    weights = {"observable": 1.0}
    if isinstance(formulation, JacobianFormulation):
        loss["jacobian"], weights["jacobian"] = SquaredNorm(by_column), formulation.term_weight
    # Keras puts the output's name in front where there are several
    metrics = {
        name: [RelativeError("error" if len(loss) > 1 else f"{name}_error", by_column=term.by_column)]
        for name, term in loss.items()
    }
    model.compile(optimizer=optimizer, loss=loss, loss_weights=weights, weighted_metrics=metrics, jit_compile=True)


def _validated(epochs: int) -> list[int]:
    """Epochs, counted from 1, that end with a validation; the last one, at the lowest learning rate, is among them."""
    every = -(-epochs // VALIDATIONS)
    return sorted({*range(every, epochs, every), epochs})


def _logging(folder: Path, model, settings: dict, **state) -> tuple[list, int]:
    """Callbacks that write to `folder`, and the epoch to go on with."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(folder / "checkpoint.npz", json.dumps(settings, sort_keys=True), **state)
    first = checkpoint.restore(model)
    table = folder / "history.csv"
    if first > 0 and table.exists():  # epochs after the checkpoint come again
        kept = "".join(table.read_text().splitlines(keepends=True)[: first + 1])
        write_file(table, lambda stream: stream.write(kept.encode()))
    written = [HistoryTable(table, append=first > 0), checkpoint]
    if find_spec("tensorboard") is not None and keras.backend.backend() == "tensorflow":
        written.append(keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False))
    return written, first

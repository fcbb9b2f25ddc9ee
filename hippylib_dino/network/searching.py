"""Search for hyperparameters with Optuna."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hippylib_dino.data.dataset import Dataset
from hippylib_dino.errors import InputError, LibraryError, TrainingError
from hippylib_dino.network.backend import keras
from hippylib_dino.network.formulations import JacobianFormulation, get_formulation
from hippylib_dino.network.training import train

if TYPE_CHECKING:
    import optuna

REPORTS = 10  # in one trial, at the same shares of all trainings, whose epochs differ with their batches


def search(
    dataset: Dataset,
    formulation: str = "h1",
    *,
    n_trials: int = 20,
    learning_rate: tuple[float, float] = (2e-3, 3e-2),
    width: tuple[int, int] = (64, 384),
    depth: tuple[int, int] = (1, 4),
    activation: Sequence[str] = ("gelu", "tanh", "softplus", "silu"),
    batch_size: Sequence[int] = (16, 32, 64),
    jacobian_weight: tuple[float, float] = (1.0, 100.0),
    storage: str | Path | None = None,
    seed: int = 0,
    **fixed: Any,
) -> optuna.Study:
    """Train with hyperparameters that Optuna's TPE draws; a trial worse than the median of the others ends early.

    The objective is the validation loss with a Jacobian weight of 1, whatever weight a trial is trained with, at the
    epoch whose weights are kept.

    Parameters
    ----------
    dataset : Dataset
    formulation : str
        "h1", "l2", "h1_truncated" or "h1_sketched".
    n_trials : int
        In all, with those that `storage` holds already.
    learning_rate : (float, float)
        Range, on a log scale; both ends included, as in all ranges.
    width, depth : (int, int)
        Ranges of width, on a log scale, and number of the hidden layers.
    activation, batch_size : sequence
        Choices.
    jacobian_weight : (float, float)
        Range, on a log scale; not for "l2".
    storage : path, optional
        SQLite file that keeps the trials; the same call goes on from there after a kill.
    seed : int
        Of the draws and of each training.
    fixed
        Other keywords of `hd.train`, for all trials.

    Returns
    -------
    optuna.Study
        Among much else ``best_params`` and ``best_value``; see `best_arguments`.

    Raises
    ------
    LibraryError
        If Optuna is not installed.
    InputError
        For no trials, a range that is empty, or a storage of another search.

    Examples
    --------
    ::

        study = hd.search(dataset, "h1", n_trials=40, n_train=256, storage="search.db")
        dino = hd.train(dataset, n_train=256, **best_arguments(study))
    """
    optuna = _optuna()
    ranges = {"learning_rate": learning_rate, "width": width, "depth": depth, "jacobian_weight": jacobian_weight}
    _check(n_trials, ranges)
    get_formulation(formulation)
    refused = sorted({"hidden", "architecture", "start", "log"} & set(fixed))
    if refused:
        raise InputError(
            f"{refused[0]}: cannot be fixed in a search, which draws widths and depth and trains often; leave it out."
        )
    settings = {
        "formulation": formulation,
        "seed": seed,
        "activation": list(activation),
        "batch_size": list(batch_size),
        **{name: list(ends) for name, ends in ranges.items()},
        "fixed": repr(sorted(fixed.items())),
    }
    study = _study(optuna, storage, settings)

    def objective(trial) -> float:
        trial.suggest_float("learning_rate", *learning_rate, log=True)
        trial.suggest_int("width", *width, log=True)
        trial.suggest_int("depth", *depth)
        trial.suggest_categorical("activation", list(activation))
        trial.suggest_categorical("batch_size", list(batch_size))
        if isinstance(get_formulation(formulation), JacobianFormulation):
            trial.suggest_float("jacobian_weight", *jacobian_weight, log=True)
        arguments = {**fixed, **_arguments(trial.params, formulation, seed)}
        pruning = _pruning(trial, optuna.TrialPruned)
        dino = train(dataset, **arguments, callbacks=[*fixed.get("callbacks", ()), pruning])
        history, epoch = dino.training["history"], dino.training["best_epoch"] - 1
        return _loss({name: values[epoch] for name, values in history.items()})

    unfinished = (optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING)  # of a search that was killed
    while (n := sum(trial.state not in unfinished for trial in study.trials)) < n_trials:
        draw = int(np.random.SeedSequence((seed, n)).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=draw)
        study.optimize(objective, n_trials=1, catch=(TrainingError,))
    return study


def best_arguments(study: optuna.Study) -> dict[str, Any]:
    """Arguments of `hd.train`, from the formulation on, of the best trial of a `search`; what was fixed comes besides.

    Parameters
    ----------
    study : optuna.Study
    """
    settings = json.loads(study.user_attrs["search"])
    return _arguments(study.best_params, settings["formulation"], settings["seed"])


def _arguments(params: dict[str, Any], formulation: str, seed: int) -> dict[str, Any]:
    chosen = get_formulation(formulation)
    if isinstance(chosen, JacobianFormulation):
        chosen = replace(chosen, jacobian_weight=params["jacobian_weight"])
    return {
        "formulation": chosen,
        "hidden": (params["width"],) * params["depth"],
        **{name: params[name] for name in ("learning_rate", "activation", "batch_size")},
        "seed": seed,
    }


def _optuna():
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise LibraryError(
            f"optuna: cannot be imported, {error.name!r} is missing. Install it: pip install 'hippylib_dino[search]'."
        ) from error
    return optuna


def _check(n_trials: int, ranges: dict[str, tuple[float, float]]) -> None:
    if n_trials < 1:
        raise InputError(f"n_trials: expected at least 1, got {n_trials}.")
    for name, ends in ranges.items():
        if len(ends) != 2 or not 0 < ends[0] <= ends[1]:
            raise InputError(f"{name}: expected a range (low, high) with 0 < low <= high, got {ends}.")


def _study(optuna, storage: str | Path | None, settings: dict):
    """A new study, or the one that `storage` holds."""
    study = optuna.create_study(
        storage=None if storage is None else f"sqlite:///{storage}",
        study_name="hippylib_dino",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
        load_if_exists=True,
    )
    told = json.dumps(settings)
    if study.user_attrs.get("search", told) != told:
        raise InputError(f"storage: {storage} holds another search, {study.user_attrs['search']}. Choose another file.")
    study.set_user_attr("search", told)
    return study


def _loss(logs: dict[str, float]) -> float:
    """The validation loss with a Jacobian weight of 1."""
    return float(logs["val_observable_error"] ** 2 + logs.get("val_jacobian_error", 0.0) ** 2)


def _pruning(trial, pruned: type[Exception]):
    """A callback that reports the validation loss, and ends a poor trial."""

    class Pruning(keras.callbacks.Callback):
        reported = 0

        def on_epoch_end(self, epoch, logs=None):
            tenth = REPORTS * (epoch + 1) // self.params["epochs"]
            if "val_loss" in logs and tenth > self.reported:
                self.reported = tenth
                trial.report(_loss(logs), tenth)
                if trial.should_prune():
                    raise pruned

    return Pruning()

"""Ensembles: the mean of several trained networks, and a spread that tells how far to trust it.

Members differ in initial weights and shuffling: Lakshminarayanan, Pritzel, Blundell, "Simple and scalable predictive
uncertainty estimation using deep ensembles", NeurIPS 30 (2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hippylib_dino.data.dataset import Dataset
from hippylib_dino.errors import InputError, TrainingError
from hippylib_dino.network.architecture import Architecture, architecture_from_config
from hippylib_dino.network.dino import DINO, check_bases
from hippylib_dino.network.formulations import Formulation
from hippylib_dino.network.latent_map import LatentMap, Linearization, weigh


class EnsembleMap(LatentMap):
    """Mean of the members: value and derivatives.

    Parameters
    ----------
    members : sequence of LatentMap
        Two or more.
    spread_scale : float
        Factor of the members' standard deviation.
    """

    def __init__(self, members: Sequence[LatentMap], spread_scale: float):
        self.members, self.spread_scale = tuple(members), spread_scale
        self.input_rank, self.output_rank = self.members[0].input_rank, self.members[0].output_rank

    def value(self, x: np.ndarray) -> np.ndarray:
        return _mean([f.value(x) for f in self.members])

    def value_and_jacobian(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, jacobian = self.members[0].value_and_jacobian(x)
        for f in self.members[1:]:  # one after the other: Jacobians of a batch are large
            other, other_jacobian = f.value_and_jacobian(x)
            value, jacobian = value + other, jacobian + other_jacobian
        return value / len(self.members), jacobian / len(self.members)

    def linearize(self, x: np.ndarray) -> Linearization:
        return _MeanLinearization([f.linearize(x) for f in self.members])

    def hessian_action(self, x: np.ndarray, weights: np.ndarray, direction: np.ndarray) -> np.ndarray:
        return self.linearize(x).hessian(weights)(direction)

    def spread(self, x: np.ndarray) -> np.ndarray:
        """Predicted standard deviation of the error of each latent observable, (..., rQ), like those of the noise."""
        return self.spread_scale * np.std([f.value(x) for f in self.members], axis=0, ddof=1)


class _MeanLinearization(Linearization):
    def __init__(self, members: list[Linearization]):
        self._members = members
        self.value = _mean([f.value for f in members])

    def jacobian(self) -> np.ndarray:
        return _mean([f.jacobian() for f in self._members])

    def jvp(self, direction: np.ndarray) -> np.ndarray:
        return _mean([f.jvp(direction) for f in self._members])

    def vjp(self, weights: np.ndarray) -> np.ndarray:
        return _mean([f.vjp(weights) for f in self._members])

    def pull(self, weights: np.ndarray) -> np.ndarray:
        return _mean([f.pull(weights) for f in self._members])

    def hessian(self, weights: np.ndarray, metric: np.ndarray | None = None) -> Callable[[np.ndarray], np.ndarray]:
        actions = [f.hessian(weights) for f in self._members]

        def action(direction: np.ndarray) -> np.ndarray:
            bent = _mean([curved(direction) for curved in actions])
            return bent if metric is None else bent + self.vjp(weigh(metric, self.jvp(direction)))

        return action


def _mean(arrays: list[np.ndarray]) -> np.ndarray:
    return np.mean(arrays, axis=0)


@dataclass(frozen=True)
class Ensemble(Architecture):
    """Mean of members of one architecture; weights are theirs, one member after the other.

    Parameters
    ----------
    input_rank, output_rank : int
        rM and rQ.
    member : Architecture
    n_members : int
        At least 2.
    spread_scale : float
        What makes the standard deviation of the members a prediction of the error of their mean.

    Raises
    ------
    InputError
        For fewer than two members, a scale that is not positive, or members of other ranks.
    """

    member: Architecture
    n_members: int
    spread_scale: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        _check_count(self.n_members)
        if not 0 < self.spread_scale < np.inf:
            raise InputError(f"spread_scale: expected a finite number > 0, got {self.spread_scale}.")
        ranks = (self.member.input_rank, self.member.output_rank)
        if ranks != (self.input_rank, self.output_rank):
            raise InputError(f"member: expected ranks {(self.input_rank, self.output_rank)}, got {ranks}.")

    def get_config(self) -> dict:
        return {**super().get_config(), "member": self.member.get_config()}

    @classmethod
    def from_config(cls, config: dict) -> Ensemble:
        values = {name: value for name, value in config.items() if name != "kind"}
        return cls(**{**values, "member": architecture_from_config(config["member"])})

    def weight_shapes(self) -> list[tuple[int, ...]]:
        return self.member.weight_shapes() * self.n_members

    def latent_map(self, weights: list[np.ndarray]) -> EnsembleMap:
        n = len(self.member.weight_shapes())
        shares = [weights[first : first + n] for first in range(0, n * self.n_members, n)]
        return EnsembleMap([self.member.latent_map(share) for share in shares], self.spread_scale)


LEFT_OUT = (
    "seed",
    "history",
    "epochs",
    "best_epoch",
    "n_selection",
    "seconds",
)  # of a member's record in that of the ensemble


def _check_count(n_members: int) -> None:
    if n_members < 2:
        raise InputError(f"n_members: expected at least 2, got {n_members}; for one network use hd.train.")


def train_ensemble(
    dataset: Dataset,
    formulation: str | Formulation = "h1",
    n_members: int = 4,
    *,
    seed: int = 0,
    log: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> DINO:
    """Train members with seeds `seed`, `seed` + 1, ... and take their mean; see `ensemble_of`.

    Parameters
    ----------
    dataset : Dataset
    formulation : str or Formulation
        See `hd.train`.
    n_members : int
    seed : int
        Of the first member.
    log : path, optional
        Folder, with a folder ``member-0``, ... for each; see `hd.train`.
    progress : bool
    **options
        As `hd.train` takes them; but where ``n_validation`` is left open the members take half of the validation
        samples that there are, so that the other half has not chosen what they keep.

    Returns
    -------
    DINO
        ``dino.latent_map.spread(x)`` predicts the standard deviation of its error.

    Raises
    ------
    InputError
        For fewer than two members, or where `hd.train` raises it.
    TrainingError
        If a training diverged, or the members agree exactly, which says nothing of their error.

    Examples
    --------
    ::

        dino = hd.train_ensemble(dataset, "h1", n_members=4, n_train=1024)
        print(hd.calibration(dino, dataset).coverage)
    """
    # these need Keras
    from hippylib_dino.network.optimizers import fresh
    from hippylib_dino.network.training import train

    _check_count(n_members)
    if options.get("n_validation") is None:
        options["n_validation"] = max(1, len(dataset.members("validation")) // 2)
    members = []
    for k in tqdm(range(n_members), desc="ensemble", unit="member", disable=not progress):
        if "optimizer" in options:
            options["optimizer"] = fresh(options["optimizer"])
        folder = None if log is None else Path(log) / f"member-{k}"
        members.append(train(dataset, formulation, seed=seed + k, log=folder, progress=progress, **options))
    return ensemble_of(members, dataset)


def ensemble_of(members: Sequence[DINO], dataset: Dataset) -> DINO:
    """The ensemble of trained DINOs, its spread calibrated on the validation samples that chose no member's weights.

    Samples on which weights, an epoch or a depth were chosen flatter the members: the spread would be too small.
    Members whose last weights were kept (the default of `hd.train`) leave all validation samples.

    One factor for all outputs makes the mean squares of errors and spreads equal over the samples.  Means of both, and
    no mean of ratios: with few members these have no mean.

    Parameters
    ----------
    members : sequence of DINO
        Of one architecture, in the bases of the dataset; two or more.
    dataset : Dataset
        With validation samples.

    Returns
    -------
    DINO

    Raises
    ------
    InputError
        For fewer than two members, different architectures or bases, or a dataset without validation samples that
        chose no member's weights.
    TrainingError
        If the members agree exactly.
    """
    _check_count(len(members))
    first = members[0]
    if any(member.architecture != first.architecture for member in members):
        raise InputError("members: expected one architecture, with the same scales of inputs and outputs, got several.")
    for member in members:
        check_bases(member, dataset)
    architecture = Ensemble(
        first.architecture.input_rank, first.architecture.output_rank, first.architecture, len(members)
    )
    weights = [w for member in members for w in member.weights]
    x, y = _unseen(members, dataset)
    settings = {k: v for k, v in first.training.items() if k not in LEFT_OUT}
    return DINO(
        architecture=replace(architecture, spread_scale=spread_ratio(architecture.latent_map(weights), x, y)),
        weights=weights,
        input_basis=first.input_basis,
        output_basis=first.output_basis,
        fingerprint=first.fingerprint,
        training={
            **settings,
            "seconds": round(sum(member.training.get("seconds", 0.0) for member in members), 1),
            "members": [member.training for member in members],
        },
    )


def _unseen(members: Sequence[DINO], dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Latent parameters and observables of the validation samples that chose no member's weights."""
    chose = max(_n_selection(member.training) for member in members)
    held_out = dataset.split("validation", jacobians=False)
    if len(held_out) <= chose:
        raise InputError(
            f"dataset: expected validation samples to calibrate the spread on, got {len(held_out)}, of which {chose} "
            "chose the weights of members. Generate with a larger n_validation, or train with a smaller one, or with "
            'keep="last".'
        )
    return held_out.x[chose:], held_out.y[chose:]


def _n_selection(training: dict) -> int:
    """How many of the first validation samples chose the weights; files made earlier do not say it."""
    of_old = 0 if training.get("keep") == "last" else training.get("n_validation", 0)
    return int(training.get("n_selection", of_old))


def spread_ratio(ensemble: EnsembleMap, x: np.ndarray, y: np.ndarray) -> float:
    """Root of Σ‖y - f(x)‖² / Σ‖spread(x)‖² over samples (n, rM), (n, rQ): 1 in expectation of a calibrated ensemble.

    Raises
    ------
    TrainingError
        If the members agree exactly at some sample.
    """
    predicted = (ensemble.spread(x) ** 2).sum(axis=-1)
    if not (predicted > 0).all():
        raise TrainingError(
            "members: agree exactly at some samples, so that their spread says nothing of the error. "
            "Train them with different seeds."
        )
    error = ((y - ensemble.value(x)) ** 2).sum(axis=-1)
    return float(np.sqrt(error.sum() / predicted.sum()))

"""Residual networks that get their layers one by one, as long as each one pays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hippylib_dino.data.dataset import Dataset
from hippylib_dino.errors import InputError
from hippylib_dino.network.architecture import ReducedResNet
from hippylib_dino.network.dino import DINO
from hippylib_dino.network.formulations import Formulation
from hippylib_dino.network.optimizers import fresh
from hippylib_dino.network.training import train


def train_growing(
    dataset: Dataset,
    formulation: str | Formulation = "h1",
    *,
    architecture: ReducedResNet,
    epochs: int,
    tolerance: float = 0.02,
    seed: int = 0,
    log: str | Path | None = None,
    **keywords,
) -> DINO:
    """Train a residual network with one layer, then with one more, and so on, each time from the weights that it has.

    O'Leary-Roseberry, Du, Chaudhuri, Martins, Willcox, Ghattas, Comput. Methods Appl. Mech. Engrg. 402 (2022), section
    on adaptive construction.  A new layer starts as the identity.

    Parameters
    ----------
    dataset, formulation
        See `hd.train`.
    architecture : ReducedResNet
        With the largest depth.
    epochs : int
        For each depth.
    tolerance : float
        Stop at the depth that lowers the validation loss by less than this share of it.
    seed : int
    log : path, optional
        See `hd.train`; a folder in it for each depth.
    keywords
        Of `hd.train`.

    Returns
    -------
    DINO
        Of the depth with the least validation loss; its history is that of all depths.

    Raises
    ------
    InputError
        If the architecture is not a `ReducedResNet` with at least one layer.
    """
    if not isinstance(architecture, ReducedResNet) or architecture.depth < 1:
        raise InputError(f"architecture: expected a ReducedResNet with depth of at least 1, got {architecture}.")
    keywords.update(epochs=epochs, seed=seed)
    best = _trained(1, dataset, formulation, log, architecture=architecture.grown(1), **keywords)
    history, least = {key: list(values) for key, values in best.training["history"].items()}, _loss(best)
    seconds = best.training["seconds"]
    for depth in range(2, architecture.depth + 1):
        deeper = _trained(depth, dataset, formulation, log, start=_grown(best, depth, seed), **keywords)
        loss = _loss(deeper)
        deeper.training["best_epoch"] += len(history["loss"])
        for key, values in deeper.training["history"].items():
            history[key].extend(values)
        seconds += deeper.training["seconds"]
        pays = loss <= (1 - tolerance) * least
        if loss < least:
            best, least = deeper, loss
        if not pays:
            break
    best.training.update(
        history=history,
        epochs=len(history["loss"]),
        seconds=round(seconds, 1),
        n_selection=best.training["n_validation"],  # they chose the depth
    )
    return best


def _grown(dino: DINO, depth: int, seed: int) -> DINO:
    """The same map by a network with more layers."""
    if not isinstance(dino.architecture, ReducedResNet):
        raise InputError(f"dino: expected a ReducedResNet, got {dino.architecture}.")
    network = dino.architecture.grown(depth)
    fresh, kept = network.keras_model(seed, {"jacobian": False}).get_weights(), dino.weights[:-2]
    return replace(dino, architecture=network, weights=[*kept, *fresh[len(kept) : -2], *dino.weights[-2:]])


def _trained(depth: int, dataset: Dataset, formulation: str | Formulation, log: str | Path | None, **keywords) -> DINO:
    if "optimizer" in keywords:
        keywords["optimizer"] = fresh(keywords["optimizer"])
    return train(dataset, formulation, log=None if log is None else Path(log) / f"depth-{depth}", **keywords)


def _loss(dino: DINO) -> float:
    """Validation loss of the weights that were kept."""
    return float(dino.training["history"]["val_loss"][dino.training["best_epoch"] - 1])

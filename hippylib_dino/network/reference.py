"""What errors are measured against: the spread of the observables, and the scores of trivial models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hippylib_dino.data.dataset import Dataset, Samples
from hippylib_dino.network.metrics import headline_errors
from hippylib_dino.network.sizes import spread

HEADLINES = ("observable", "jacobian", "parameter_jacobian", "control_jacobian")
MODELS = ("constant", "affine")
SOME = 1024  # training samples that tell enough of all
_CHUNK = 64  # Jacobians that are read at once


@dataclass(frozen=True)
class Reference:
    """Spread and trivial models of a dataset, from its first 1024 training samples.

    Attributes
    ----------
    spread : float
        See `hippylib_dino.network.sizes.spread`.
    mean : (rQ,)
        Of the latent observables: the constant model.
    offset : (rQ,)
    jacobian : (rQ, rM)
        Of the affine model c + J̄ x with the mean Jacobian, that of `hd.linear_model`.
    """

    spread: float
    mean: np.ndarray
    offset: np.ndarray
    jacobian: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, samples: Samples) -> Reference:
        """Of the training samples of a dataset; of `samples` if it has none."""
        there = len(dataset.members("train"))
        if there:
            samples = dataset.split("train", min(there, SOME), jacobians=False)
        parts = np.array_split(samples.index, -(-len(samples) // _CHUNK))
        total: np.ndarray = sum(dataset.jacobians(part).sum(axis=0) for part in parts)
        jacobian = total / len(samples)
        offset = (samples.y - samples.x @ jacobian.T).mean(axis=0)
        return cls(spread(samples, dataset), samples.y.mean(axis=0), offset, jacobian)

    def errors(self, samples: Samples) -> dict[str, dict[str, np.ndarray]]:
        """Relative squared errors (n,) by metric, of the "constant" and of the "affine" model."""
        shape = samples.reduced_jacobian.shape
        predictions = {
            "constant": (np.broadcast_to(self.mean, shape[:2]), np.zeros(shape)),
            "affine": (self.offset + samples.x @ self.jacobian.T, np.broadcast_to(self.jacobian, shape)),
        }
        found = {}
        for model, (values, jacobians) in predictions.items():
            errors = headline_errors(samples, values, jacobians, self.spread)
            found[model] = {name: errors[name] for name in HEADLINES if name in errors}
        return found

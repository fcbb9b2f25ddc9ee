"""Batches of training samples, which a seed, the epoch and the number of the batch fix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hippylib_dino.data.dataset import Samples
from hippylib_dino.network.backend import keras
from hippylib_dino.network.formulations import Compared, Formulation

CHUNK = 1024


class Batches(keras.utils.PyDataset):
    """Batches in float32: inputs, truth and weights of both terms of the loss.

    Randomness is a function of (seed, epoch, batch), so that a training that was killed goes on as it would have.

    Parameters
    ----------
    samples : Samples
        ``reduced_jacobian`` may be empty where it is read batch by batch.
    inputs : (n, n_in)
        What the network takes; latent parameters for most.
    formulation : Formulation
    spread : float
        What squared errors of values are divided by, see `hippylib_dino.network.sizes.spread`.
    batch_size : int
        At most the number of samples.  What does not fill a last batch is left out of this epoch of a training, since
        XLA would compile once more for it.
    seed : int, optional
        Of shuffling and random directions; None keeps the order, and the directions of epoch 0: for validation.
    read : callable, optional
        Reduced Jacobians (n, rQ, rM) of samples with the numbers (n,), which then are not kept in memory.

    Attributes
    ----------
    balance : float
        Factor of the Jacobian's weights, which a callback may change.
    by_column : bool
        Whether the Jacobian's weights are (n, rM + rZ), one a column, in place of (n,).
    """

    def __init__(
        self,
        samples: Samples,
        inputs: np.ndarray,
        formulation: Formulation,
        spread: float,
        batch_size: int,
        *,
        seed: int | None = None,
        read: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        super().__init__()
        self.formulation, self.batch_size, self.seed, self.epoch = formulation, batch_size, seed, 0
        self._x, self._y = inputs.astype("float32"), samples.y.astype("float32")
        self._value_weight = np.full(len(samples), 1.0 / spread, dtype="float32")
        self._jacobian_weight = formulation.weights(samples).astype("float32")
        self.by_column = self._jacobian_weight.ndim == 2
        self._read, self._index, self.balance = read, samples.index, 1.0
        jacobians = None if read is not None else samples.reduced_jacobian.astype("float32")
        # what does not change from batch to batch is computed once
        self._kept = None if jacobians is None or formulation.random else _compare_all(formulation, jacobians)
        self._jacobian = jacobians if formulation.random else None
        self._order = self._shuffled()

    def _shuffled(self) -> np.ndarray:
        order = np.arange(len(self._x))
        if self.seed is not None:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        return order

    def __len__(self) -> int:
        n = len(self._order)
        return n // self.batch_size if self.seed is not None else -(-n // self.batch_size)

    def __getitem__(self, i: int):
        pick = self._order[i * self.batch_size : (i + 1) * self.batch_size]
        inputs, truth, weight = (
            {"x": self._x[pick]},
            {"observable": self._y[pick]},
            {"observable": self._value_weight[pick]},
        )
        compared = self._compared(pick, i)
        if compared is not None:
            truth["jacobian"] = compared.jacobian
            weight["jacobian"] = self._jacobian_weight[pick] * np.float32(compared.scale * self.balance)
            inputs.update(compared.directions())
        return (inputs if len(inputs) > 1 else inputs["x"]), truth, weight

    def _compared(self, pick: np.ndarray, i: int) -> Compared | None:
        if self._kept is not None:
            return self._kept.at(pick)
        if self._read is not None:
            jacobian = self._read(self._index[pick]).astype("float32")
        elif self._jacobian is not None:
            jacobian = self._jacobian[pick]
        else:
            return None
        seed = (0, 0, i) if self.seed is None else (self.seed, self.epoch, i)
        return self.formulation.compare(jacobian, np.random.default_rng(seed))

    def start(self, epoch: int, balance: float) -> None:
        """Go on at `epoch`."""
        self.epoch, self.balance = epoch, balance
        self._order = self._shuffled()

    def on_epoch_end(self) -> None:
        if self.seed is not None:
            self.epoch += 1
            self._order = self._shuffled()


def _compare_all(formulation: Formulation, jacobian: np.ndarray) -> Compared | None:
    """The comparison of all samples by a formulation that draws no directions."""
    rng = np.random.default_rng(0)
    blocks = (jacobian[i : i + CHUNK] for i in range(0, len(jacobian), CHUNK))
    parts = [part for part in (formulation.compare(block, rng) for block in blocks) if part is not None]
    return Compared.joined(parts) if parts else None

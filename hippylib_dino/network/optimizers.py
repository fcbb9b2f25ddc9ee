"""Optimizers with their schedules and the learning rates that suit these networks."""

from __future__ import annotations

from hippylib_dino.errors import InputError
from hippylib_dino.network.backend import keras

# peaks, chosen on the three problems of benchmarks/training_study.py
PEAKS = {"muon": 1e-2, "adam": 2e-3, "adamw": 2e-3}


def get_optimizer(optimizer: str | keras.optimizers.Optimizer, learning_rate: float | None, steps: int):
    """An optimizer whose rate warms up linearly over a twentieth of the steps, then decays to zero as a cosine.

    Parameters
    ----------
    optimizer : "muon", "adam", "adamw" or keras.optimizers.Optimizer
        "muon" orthogonalises the momentum of each weight matrix: Jordan et al., "Muon: an optimizer for hidden layers
        in neural networks" (2024); scaled as in Liu et al., arXiv 2502.16982, section 2.2.
    learning_rate : float, optional
        Peak.
    steps : int
        Of the whole training.

    Returns
    -------
    optimizer, peak

    Raises
    ------
    InputError
        For an unknown name, or a rate that is not positive.
    """
    if isinstance(optimizer, keras.optimizers.Optimizer):
        if learning_rate is not None:
            raise InputError("learning_rate: the optimizer that is given has its own; leave it out.")
        return optimizer, None
    if optimizer not in PEAKS:
        raise InputError(
            f"optimizer: expected one of {tuple(PEAKS)} or a keras.optimizers.Optimizer, got {optimizer!r}."
        )
    peak = PEAKS[optimizer] if learning_rate is None else learning_rate
    if not peak > 0:
        raise InputError(f"learning_rate: expected > 0, got {peak}.")
    warm_up = max(1, steps // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=peak / warm_up,
        warmup_target=peak,
        warmup_steps=warm_up,
        decay_steps=max(1, steps - warm_up),
    )
    if optimizer == "muon":
        return keras.optimizers.Muon(schedule, weight_decay=0.0, adam_weight_decay=0.0), peak
    return {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}[optimizer](schedule), peak


def fresh(optimizer):
    """A copy of an optimizer that is an instance, which serves one model; a name as it is."""
    if isinstance(optimizer, keras.optimizers.Optimizer):
        return optimizer.from_config(optimizer.get_config())
    return optimizer

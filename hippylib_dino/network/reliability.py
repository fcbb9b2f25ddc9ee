"""How well an ensemble's spread predicts its error on held-out samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from hippylib_dino.data.dataset import Dataset
from hippylib_dino.errors import InputError
from hippylib_dino.network.dino import DINO
from hippylib_dino.network.ensemble import EnsembleMap, check_bases, spread_ratio

LEVELS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Calibration:
    """Predicted spread against actual error.

    Attributes
    ----------
    levels : tuple of float
        Nominal coverages p.
    coverage : tuple of float
        Shares of the latent observables of all samples with |y - f(x)| ≤ t(p) spread(x), t(p) the two-sided quantile
        of Student's distribution.
    degrees_of_freedom : int
        Of that distribution: one less than members, from which the standard deviation is estimated.
    scale : float
        Factor by which the spread would have to grow on these samples: 1 if it is right on average.
    correlation : float
        Pearson's, of `spread` and `error` over the samples.
    spread, error : (n,)
        Euclidean norms of spread(x) and y - f(x) over the latent observables, by sample.
    """

    levels: tuple[float, ...]
    coverage: tuple[float, ...]
    degrees_of_freedom: int
    scale: float
    correlation: float
    spread: np.ndarray
    error: np.ndarray


def calibration(dino: DINO, dataset: Dataset, part: str = "test", levels: Sequence[float] = LEVELS) -> Calibration:
    """Compare an ensemble's spread with its error on samples that it was not trained on.

    Parameters
    ----------
    dino : DINO
        Made by `hd.train_ensemble`.
    dataset : Dataset
        Of the same problem, with the same bases.
    part : str
        "test" (default), "validation" (on some of which the spread was scaled) or "train".
    levels : sequence of float
        Nominal coverages, in (0, 1).

    Returns
    -------
    Calibration

    Raises
    ------
    InputError
        If the DINO is no ensemble, a level is not in (0, 1), or the dataset has other bases or fewer than two such
        samples.

    Examples
    --------
    ::

        report = hd.calibration(dino, dataset)
        hd.plotting.save(hd.plotting.plot_calibration(report), "calibration.png")
    """
    ensemble = dino.latent_map
    if not isinstance(ensemble, EnsembleMap):
        raise InputError(
            f"dino: expected an ensemble, got {type(dino.architecture).__name__}; train one by hd.train_ensemble."
        )
    if len(levels) == 0 or not all(0 < level < 1 for level in levels):
        raise InputError(f"levels: expected nominal coverages between 0 and 1, got {tuple(levels)}.")
    check_bases(dino, dataset)
    samples = dataset.split(part)
    if len(samples) < 2:
        raise InputError(f"part: expected at least 2 {part} samples, got {len(samples)}; generate with n_{part}.")
    deviation, spread = samples.y - ensemble.value(samples.x), ensemble.spread(samples.x)
    degrees = len(ensemble.members) - 1
    quantiles = stdtrit(degrees, 0.5 * (1 + np.asarray(levels)))
    by_sample, predicted = np.linalg.norm(deviation, axis=1), np.linalg.norm(spread, axis=1)
    return Calibration(
        levels=tuple(levels),
        coverage=tuple(float((np.abs(deviation) <= q * spread).mean()) for q in quantiles),
        degrees_of_freedom=degrees,
        scale=spread_ratio(ensemble, samples.x, samples.y),
        correlation=float(np.corrcoef(predicted, by_sample)[0, 1]),
        spread=predicted,
        error=by_sample,
    )

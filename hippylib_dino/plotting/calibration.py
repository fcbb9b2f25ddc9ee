"""Calibration of an ensemble: nominal and observed coverage, predicted spread and actual error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from hippylib_dino.plotting.figures import COLORS, REFERENCE

if TYPE_CHECKING:
    from hippylib_dino.network.reliability import Calibration


def plot_calibration(calibration: Calibration) -> Figure:
    """Reliability diagram, and by sample the actual error over the predicted spread.

    Parameters
    ----------
    calibration : Calibration
        Of `hd.calibration`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    reliability, scatter = figure.subplots(1, 2)
    _draw_reliability(reliability, calibration)
    _draw_errors(scatter, calibration)
    return figure


def _draw_reliability(axes: Axes, calibration: Calibration) -> None:
    """Observed over nominal coverage; below the diagonal the ensemble is too sure of itself."""
    order = np.argsort(calibration.levels)
    nominal, observed = np.asarray(calibration.levels)[order], np.asarray(calibration.coverage)[order]
    axes.plot([0, 1], [0, 1], color=REFERENCE, linestyle="--", linewidth=1, label="calibrated")
    axes.fill_between([0, 1], [0, 1], 0, color=COLORS[1], alpha=0.08, linewidth=0, label="overconfident")
    axes.plot(nominal, observed, marker="o", color=COLORS[0], label="ensemble", clip_on=False, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="nominal coverage", ylabel="observed coverage")
    axes.set_title(f"Student intervals, {calibration.degrees_of_freedom} degrees of freedom")
    axes.grid(True, alpha=0.3)
    axes.legend(loc="upper left")


def _draw_errors(axes: Axes, calibration: Calibration) -> None:
    """One dot a sample, on the diagonal where the error is what was predicted."""
    spread, error = calibration.spread, calibration.error
    ends = [0.8 * min(spread.min(), error.min()), 1.25 * max(spread.max(), error.max())]
    axes.scatter(spread, error, s=14, alpha=0.6, color=COLORS[0], linewidths=0)
    axes.plot(ends, ends, color=REFERENCE, linestyle="--", linewidth=1, label="error = spread")
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):  # often less than a decade
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="predicted spread", ylabel="actual error (noise standard deviations)")
    axes.set_title(f"correlation {calibration.correlation:.2f}, scale {calibration.scale:.2f}")
    axes.grid(True, alpha=0.3)
    axes.legend(loc="upper left")

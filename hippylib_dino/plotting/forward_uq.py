"""Forward UQ with a control variate: law of the quantity of interest, and what a PDE solve is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hippylib_dino.plotting.figures import COLORS

if TYPE_CHECKING:
    from hippylib_dino.uq import ControlVariate

BINS = 40


def plot_control_variate(result: ControlVariate, statistic: str = "mean", *, units: str = "") -> Figure:
    """Law of the quantity of interest by PDE and surrogate; width of the interval over the number of PDE solves.

    Parameters
    ----------
    result : ControlVariate
        Of `hd.uq.control_variate`.
    statistic : str
        Whose standard error is drawn.
    units : str
        Of the quantity of interest.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If the statistic was not estimated.
    """
    counts, error, plain = result.convergence(statistic)
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    law, convergence = figure.subplots(1, 2)
    _draw_law(law, result, units)
    convergence.loglog(counts, plain, marker="o", color=COLORS[1], label="PDE alone")
    convergence.loglog(counts, error, marker="o", color=COLORS[0], label="with the surrogate as control variate")
    convergence.set(xlabel="PDE solves", ylabel=f"standard error ({statistic})")
    saved = (plain[-1] / error[-1]) ** 2 if error[-1] > 0 else np.inf
    convergence.set_title(f"variance {saved:.3g} times less at {counts[-1]} solves")
    convergence.grid(True, which="both", alpha=0.3)
    convergence.legend()
    return figure


def _draw_law(axes: Axes, result: ControlVariate, units: str) -> None:
    """Histograms with common bins; what lies beyond the central 99.8 % is left out, lest tails set the scale."""
    both = np.concatenate([result.cheap, result.pde])
    low, high = np.quantile(both, [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1.0, BINS)
    axes.hist(result.cheap, edges, density=True, color=COLORS[0], alpha=0.4, label=f"surrogate ({len(result.cheap)})")
    coarse = edges[:: max(1, BINS // 20)]
    axes.hist(result.pde, coarse, density=True, histtype="step", color=COLORS[1], label=f"PDE ({len(result.pde)})")
    axes.set(xlabel="quantity of interest" + (f" ({units})" if units else ""), ylabel="density", title="law")
    axes.legend()

"""History of an enrichment: distance to the PDE's MAP point over the PDE solves that were paid for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hippylib_dino.plotting.figures import COLORS, REFERENCE

if TYPE_CHECKING:
    from hippylib_dino.surrogate.enrichment import Enrichment


def plot_enrichment(result: Enrichment) -> Figure:
    """Certified distance and errors at the surrogate's MAP point, by round, over the forward PDE solves.

    Parameters
    ----------
    result : Enrichment
        Of `hd.enrich`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    solves = np.array([entry.n_solves for entry in result.rounds])
    found = [entry.certificate for entry in result.rounds]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    distance, errors = figure.subplots(1, 2)
    distance.semilogy(solves, [c.relative_distance for c in found], marker="o", color=COLORS[0], label="certified")
    outside = [entry.outside for entry in result.rounds]
    distance.semilogy(solves, outside, marker="s", color=COLORS[2], label="its part outside the input basis")
    distance.axhline(result.certificate.threshold, color=REFERENCE, linestyle="--", label="threshold")
    distance.set(ylabel="posterior deviations per informed direction")
    distance.set_title("distance to the PDE's MAP point: " + ("trusted" if result.trusted else "not trusted"))
    errors.semilogy(
        solves, [c.observable_error for c in found], marker="o", color=COLORS[0], label="observable, noise deviations"
    )
    errors.semilogy(
        solves,
        [c.jacobian_error for c in found],
        marker="s",
        color=COLORS[1],
        label="Jacobian on the residual, relative",
    )
    errors.set_title("errors at the surrogate's MAP point")
    for axes in (distance, errors):
        axes.set_xlabel("forward PDE solves")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(True, which="both", alpha=0.3)
        axes.legend()
    return figure

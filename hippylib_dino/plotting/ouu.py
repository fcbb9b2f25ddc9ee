"""Optimization under uncertainty: controls, what they do to the quantity of interest, how they were found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from hippylib_dino.plotting.figures import COLORS, REFERENCE, check_entries, input_error

if TYPE_CHECKING:
    from hippylib_dino.ouu import OptimalControl, RiskMeasure

BINS = 40  # at most


def plot_controls(
    controls: Mapping[str, np.ndarray],
    *,
    bounds: tuple[float | np.ndarray, float | np.ndarray] | None = None,
    units: str = "",
) -> Figure:
    """Entries of finite-dimensional controls, side by side; `plot_fields` draws a control that is a field.

    Parameters
    ----------
    controls : mapping of str to (dZ,)
        By label, such as "surrogate" and "PDE".
    bounds : pair of float or (dZ,), optional
        Drawn as lines.
    units : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there are no controls, or they have different sizes.
    """
    check_entries(controls, "controls")
    shapes = {np.shape(z) for z in controls.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1:
        raise input_error(
            "controls", expected="arrays (dZ,) of one size", received=str(sorted(shapes)), remedy="Flatten them."
        )
    (n,) = shapes.pop()
    figure = Figure(figsize=(min(4 + 0.12 * n * len(controls), 14), 3.6), layout="constrained")
    axes = figure.subplots()
    places, width = np.arange(n), 0.8 / len(controls)
    for k, (label, z) in enumerate(controls.items()):
        axes.bar(places + (k + 0.5) * width - 0.4, z, width, color=COLORS[k % len(COLORS)], label=label)
    for bound in bounds or ():
        axes.step(places, np.broadcast_to(bound, (n,)), where="mid", color=REFERENCE, linewidth=0.8)
    axes.axhline(0.0, color=REFERENCE, linewidth=0.8)
    axes.set(xlabel="control", ylabel="value" + (f" ({units})" if units else ""))
    axes.legend()
    return figure


def plot_quantity(
    quantities: Mapping[str, np.ndarray], *, risk: RiskMeasure | None = None, units: str = "", log: bool = False
) -> Figure:
    """Distributions of the quantity of interest under several controls, and how likely it exceeds a value.

    Parameters
    ----------
    quantities : mapping of str to (n,)
        Samples by label, such as "before" and "after".
    risk : RiskMeasure, optional
        Its value for each is marked.
    units : str
    log : bool
        A logarithmic axis, for quantities that are positive and differ by orders.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there are no samples, or some are not finite, or not positive on a logarithmic axis.
    """
    check_entries(quantities, "quantities")
    samples = {label: np.asarray(q, dtype=float) for label, q in quantities.items()}
    for label, q in samples.items():
        if q.ndim != 1 or len(q) == 0 or not np.isfinite(q).all() or (log and (q <= 0).any()):
            kind = "positive" if log else "finite"
            raise input_error(
                "quantities", expected=f"{kind} samples (n,)", received=f"{q.shape} for {label!r}", remedy="Check them."
            )
    figure = Figure(figsize=(10, 4), layout="constrained")
    density, exceedance = figure.subplots(1, 2)
    together = np.concatenate(list(samples.values()))
    low, high = together.min(), together.max()
    high = high if high > low else low + 1.0
    n_bins = int(np.clip(2 * np.sqrt(min(map(len, samples.values()))), 10, BINS))
    edges = (np.geomspace if log else np.linspace)(low, high, n_bins + 1).tolist()
    for k, (label, q) in enumerate(samples.items()):
        color = COLORS[k % len(COLORS)]
        name = label if risk is None else f"{label}, {type(risk).__name__} {risk.value(q):.4g}"
        share = {"bins": edges, "weights": np.full(len(q), 1 / len(q)), "color": color}
        density.hist(q, **share, histtype="stepfilled", alpha=0.15)
        density.hist(q, **share, histtype="step", linewidth=1.4, label=name)
        exceedance.step(np.sort(q), 1 - np.arange(len(q)) / len(q), where="pre", color=color, label=label)
        if risk is not None:
            for axes in (density, exceedance):
                axes.axvline(risk.value(q), color=color, linestyle="--", linewidth=1)
    for axes in (density, exceedance):
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("quantity of interest" + (f" ({units})" if units else ""))
    density.set_ylabel("share of samples")
    density.legend()
    exceedance.set(ylabel="probability of more", yscale="log")
    exceedance.grid(True, which="both", alpha=0.3)
    return figure


def plot_convergence(runs: Mapping[str, OptimalControl]) -> Figure:
    """Objective and projected gradient over the evaluations of the objective.

    Parameters
    ----------
    runs : mapping of str to OptimalControl
        By label.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there are no runs.
    """
    check_entries(runs, "runs")
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    values, gradients = figure.subplots(1, 2)
    for k, (label, run) in enumerate(runs.items()):
        counts = [iterate.n_evaluations for iterate in run.history]
        style = {"color": COLORS[k % len(COLORS)], "marker": ".", "label": label}
        values.plot(counts, [iterate.value for iterate in run.history], **style)
        gradients.semilogy(counts, [iterate.gradient_norm for iterate in run.history], **style)
    if all(iterate.value > 0 for run in runs.values() for iterate in run.history):
        values.set_yscale("log")
    values.set_ylabel("objective")
    gradients.set_ylabel("largest projected gradient")
    for axes in (values, gradients):
        axes.set_xlabel("evaluations of objective and gradient")
        axes.grid(True, alpha=0.3)
    values.legend()
    return figure

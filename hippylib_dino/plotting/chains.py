"""Traces of MCMC chains: by step, their distribution, their autocorrelation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hippylib_dino.plotting.figures import COLORS, REFERENCE, input_error

if TYPE_CHECKING:
    from hippylib_dino.mcmc.chains import Chains

MOST = 6  # components drawn by default
ROUNDING = 1e-12  # relative to the largest value
STUCK = 5.0  # width of the line where a chain held one point
ALARM = "#B00020"


def plot_chains(chains: Chains, quantity: str, components: list[int] | None = None) -> Figure:
    """Trace, histogram and autocorrelation of components of a quantity, one colour a chain.

    Chains that never moved, or held one point for long, are named above; a wide line in the trace is where they did.

    Parameters
    ----------
    chains : Chains
    quantity : str
        Name in ``chains.quantities``.
    components : list of int, optional
        Of a quantity that is an array, counted through; default the first six.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there is no such quantity or component.
    """
    if quantity not in chains.quantities:
        raise input_error(
            "quantity", expected=f"one of {sorted(chains.quantities)}", received=repr(quantity), remedy="Choose one."
        )
    values = chains.quantities[quantity]
    values = values.reshape(*values.shape[:2], -1)
    n = values.shape[-1]
    components = list(range(min(n, MOST))) if components is None else components
    if not components or min(components) < 0 or max(components) >= n:
        raise input_error(
            "components", expected=f"numbers from 0 to {n - 1}", received=str(components), remedy="Choose some of them."
        )
    stuck = chains.stuck()
    figure = Figure(figsize=(11, 1.9 * len(components) + 0.4), layout="constrained")
    rows = figure.subplots(len(components), 3, squeeze=False, width_ratios=(3, 1, 1))
    for axes, component in zip(rows, components, strict=True):
        label = quantity if n == 1 else f"{quantity}[{component}]"
        _draw(axes, values[..., component], stuck, label)
    for axes, title in zip(rows[0], ("trace", "distribution", "autocorrelation"), strict=True):
        axes.set_title(title)
    for axes, label in zip(rows[-1], ("step", "density", "lag"), strict=True):
        axes.set_xlabel(label)
    lines = [Line2D([], [], color=COLORS[c % len(COLORS)], label=f"chain {c}") for c in range(len(values))]
    if stuck:
        marker = Line2D([], [], color=REFERENCE, linewidth=STUCK, alpha=0.5, label="held one point")
        lines.append(marker)
        figure.suptitle(f"{chains.kernel}\n{chains.account()}", color=ALARM, wrap=True)
    else:
        figure.suptitle(chains.kernel)
    figure.legend(handles=lines, loc="outside lower center", ncols=min(len(lines), 9), fontsize="small")
    return figure


def _draw(axes: list[Axes], values: np.ndarray, stuck: Mapping[int, slice], label: str) -> None:
    """One component, (n_chains, n_samples); `stuck` has the steps at which chains held one point."""
    trace, histogram, correlation = axes
    edges = np.histogram_bin_edges(values, bins=30).tolist()
    lags = max(2, min(values.shape[1] // 3, 100))
    for c, chain in enumerate(values):
        color = COLORS[c % len(COLORS)]
        trace.plot(chain, color=color, linewidth=0.6, alpha=0.8)
        if c in stuck:  # chains that hold the same point lie on top of each other: the first is the widest
            width, steps = STUCK + 2 * min(len(values) - 1 - c, 6), np.arange(len(chain))[stuck[c]]
            trace.plot(steps, chain[stuck[c]], color=color, linewidth=width, alpha=0.5, solid_capstyle="butt")
        if _varies(chain) or c in stuck:  # not of what is constant by construction
            correlation.plot(autocorrelation(chain)[:lags], color=color, linewidth=1)
        if _varies(chain):
            histogram.hist(
                chain, bins=edges, density=True, histtype="step", color=color, orientation="horizontal", linewidth=1
            )
        else:  # no density
            histogram.axhline(chain[0], color=color, linewidth=1, linestyle="--")
    trace.set_ylabel(label)
    histogram.sharey(trace)
    correlation.axhline(0.0, color=REFERENCE, linewidth=0.8)
    correlation.set_ylim(-0.3, 1.05)


def autocorrelation(chain: np.ndarray) -> np.ndarray:
    """Sample autocorrelation at lags 0, 1, ... of a chain (n,), by FFT; 1 at all lags of what never changes.

    There it is 0/0, and 1 what it tends to as changes get rare.
    """
    if not _varies(chain):
        return np.ones(len(chain))
    centred = chain - chain.mean()
    size = 2 * len(chain)
    covariance = np.fft.irfft(np.abs(np.fft.rfft(centred, size)) ** 2, size)[: len(chain)]
    return covariance / covariance[0]


def _varies(chain: np.ndarray) -> bool:
    """By more than rounding."""
    return bool(np.ptp(chain) > ROUNDING * np.abs(chain).max())

"""Traces of MCMC chains: by step, their distribution, their autocorrelation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hippylib_dino.plotting.figures import COLORS, REFERENCE, input_error

if TYPE_CHECKING:
    from hippylib_dino.mcmc.chains import Chains

MOST = 6  # components drawn by default


def plot_chains(chains: Chains, quantity: str, components: list[int] | None = None) -> Figure:
    """Trace, histogram and autocorrelation of components of a quantity, one colour a chain.

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
    figure = Figure(figsize=(11, 1.9 * len(components)), layout="constrained")
    rows = figure.subplots(len(components), 3, squeeze=False, width_ratios=(3, 1, 1))
    for axes, component in zip(rows, components, strict=True):
        label = quantity if n == 1 else f"{quantity}[{component}]"
        _draw(axes, values[..., component], label)
    for axes, title in zip(rows[0], ("trace", "distribution", "autocorrelation"), strict=True):
        axes.set_title(title)
    for axes, label in zip(rows[-1], ("step", "density", "lag"), strict=True):
        axes.set_xlabel(label)
    figure.suptitle(chains.kernel)
    return figure


def _draw(axes: list[Axes], values: np.ndarray, label: str) -> None:
    """One component, (n_chains, n_samples)."""
    trace, histogram, correlation = axes
    edges = np.histogram_bin_edges(values, bins=30).tolist()
    lags = max(2, min(values.shape[1] // 3, 100))
    for c, chain in enumerate(values):
        color = COLORS[c % len(COLORS)]
        trace.plot(chain, color=color, linewidth=0.6, alpha=0.8)
        histogram.hist(
            chain, bins=edges, density=True, histtype="step", color=color, orientation="horizontal", linewidth=1
        )
        correlation.plot(autocorrelation(chain)[:lags], color=color, linewidth=1)
    trace.set_ylabel(label)
    histogram.sharey(trace)
    correlation.axhline(0.0, color=REFERENCE, linewidth=0.8)
    correlation.set_ylim(-0.3, 1.05)


def autocorrelation(chain: np.ndarray) -> np.ndarray:
    """Sample autocorrelation at lags 0, 1, ... of a chain (n,), by FFT; 1 and zeros for a chain that never moved."""
    centred = chain - chain.mean()
    size = 2 * len(chain)
    covariance = np.fft.irfft(np.abs(np.fft.rfft(centred, size)) ** 2, size)[: len(chain)]
    # a chain that never moved has a variance of rounding errors
    if covariance[0] <= len(chain) * (1e-12 * np.abs(chain).max()) ** 2:
        return np.eye(1, len(chain))[0]
    return covariance / covariance[0]

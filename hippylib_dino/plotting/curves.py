"""Curves and scatters of plain arrays: spectra, training history, observables.  No dolfin here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from hippylib_dino.plotting.figures import COLORS, REFERENCE, check_entries, input_error

FEW = 30  # up to this many points a curve carries markers
LEARNING_RATE = "learning_rate"
VALIDATION = "val_"


def _line(values: ArrayLike, argument: str) -> np.ndarray:
    """`values` as a float array (n,), n > 0.  Raises `InputError`."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0:
        raise input_error(
            argument,
            expected="shape (n,) with n > 0",
            received=f"shape {array.shape}",
            remedy="Pass one value per index or epoch; plot several runs as several entries.",
        )
    return array


def _shown(values: np.ndarray) -> np.ndarray:
    """Mask (n,) of the values that a log axis can show."""
    return np.isfinite(values) & (values > 0)


def _note(*arrays: np.ndarray) -> str:
    """For the legend: how many of the values a log axis cannot show."""
    hidden = sum(np.count_nonzero(~_shown(values)) for values in arrays)
    return f" ({hidden} not shown: ≤ 0 or nan)" if hidden else ""


def _draw_log(axes: Axes, values: np.ndarray, **style) -> None:
    """Draw `values` (n,) over 1..n for a log axis."""
    shown = _shown(values)
    few = np.count_nonzero(shown) <= FEW
    axes.plot(np.flatnonzero(shown) + 1, values[shown], **{"marker": "o" if few else "", "markersize": 4, **style})


def _finish_log(axes: Axes, ylabel: str, last: int) -> None:
    """Log y, 1..`last` on x with ticks at whole numbers, a light grid."""
    axes.set_yscale("log")
    axes.set_xlim(0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.set_ylabel(ylabel)
    axes.grid(True, alpha=0.3)


def draw_spectra(axes: Axes, spectra: Mapping[str, np.ndarray], labels: Sequence[str], *, broad_first: bool) -> None:
    """All spectra on a log axis; a broad, pale first one is seen beneath those that lie on it."""
    for i, (values, label, color) in enumerate(zip(spectra.values(), labels, cycle(COLORS))):
        width = {"linewidth": 4, "alpha": 0.5} if i == 0 and broad_first else {"linewidth": 1.5}
        _draw_log(axes, values, color=color, label=label + _note(values), **width)
    _finish_log(axes, "eigenvalue", max(values.size for values in spectra.values()))


def _lines(spectra: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """The spectra as arrays (n,)."""
    check_entries(spectra, "spectra")
    return {label: _line(values, f"spectra[{label!r}]") for label, values in spectra.items()}


def plot_spectra(spectra: Mapping[str, ArrayLike]) -> Figure:
    """Decay of the eigenvalues that ranked the vectors of bases.

    Parameters
    ----------
    spectra : dict of (n,) arrays
        Label to eigenvalues, descending, for instance ``{"derivative": basis.eigenvalues}``; the
        lengths may differ.  Values that are not positive are left out and counted in the legend.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there is no spectrum, or one is not of shape (n,).

    Examples
    --------
    >>> figure = plot_spectra({"derivative": 0.5 ** np.arange(10), "kle": 0.8 ** np.arange(20)})
    >>> figure.axes[0].get_yscale()
    'log'
    """
    lines = _lines(spectra)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    draw_spectra(axes, lines, list(lines), broad_first=False)
    axes.set_xlabel("index")
    axes.legend()
    return figure


def _history(history: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    """The history as arrays (epochs,), checked to be of one length."""
    check_entries(history, "history")
    arrays = {key: _line(values, f"history[{key!r}]") for key, values in history.items()}
    first, reference = next(iter(arrays.items()))
    for key, values in arrays.items():
        if values.size != reference.size:
            raise input_error(
                f"history[{key!r}]",
                expected=f"shape ({reference.size},), one value an epoch as in {first!r}",
                received=f"shape {values.shape}",
                remedy="Put nan in epochs in which a quantity was not measured.",
            )
    return arrays


def plot_history(history: Mapping[str, Sequence[float]]) -> Figure:
    """Training history by epoch, log scale: training dashed, validation solid, one colour a quantity.

    Parameters
    ----------
    history : dict of (epochs,) lists
        As Keras keeps it: "loss", "val_loss", "observable_error", "val_observable_error", ...; what
        starts with "val_" is validation, and nan where there was none: its curve joins the epochs that had one.
        "learning_rate" gets a panel of its own.  Other values that are not positive, nan included,
        are left out and counted in the legend.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If the history is empty, or an entry is not of shape (epochs,).

    Examples
    --------
    >>> figure = plot_history({"loss": [1.0, 0.1], "val_loss": [1.5, 0.3], "learning_rate": [1e-3, 1e-4]})
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['loss, relative error', 'learning rate']
    """
    arrays = _history(history)
    rate = arrays.pop(LEARNING_RATE, None)
    heights = ([4.0] if arrays else []) + ([1.2] if rate is not None else [])
    figure = Figure(figsize=(7.5, 0.6 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    if arrays:
        _draw_quantities(panels[0], arrays)
    if rate is not None:
        _draw_log(panels[-1], rate, color=REFERENCE, label=LEARNING_RATE)
        _finish_log(panels[-1], "learning rate", rate.size)
    panels[-1].set_xlabel("epoch")
    return figure


def _measured(key: str, values: np.ndarray) -> np.ndarray:
    """Without the epochs that had no validation."""
    return values[~np.isnan(values)] if key.startswith(VALIDATION) else values


def _draw_quantities(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Training and validation curves with a legend of colours (quantities) and dashes (the two)."""
    quantities = dict.fromkeys(key.removeprefix(VALIDATION) for key in arrays)
    handles = []
    for quantity, color in zip(quantities, cycle(COLORS)):
        styles = {key: dash for key, dash in ((quantity, "--"), (VALIDATION + quantity, "-")) if key in arrays}
        for key, dash in styles.items():
            _draw_log(axes, arrays[key], color=color, linestyle=dash, label=key)
        label = quantity.replace("_", " ") + _note(*(_measured(key, arrays[key]) for key in styles))
        handles.append(Line2D([], [], color=color, label=label))
    if any(key.startswith(VALIDATION) for key in arrays):
        handles += [
            Line2D([], [], color=REFERENCE, linestyle="--", label="training"),
            Line2D([], [], color=REFERENCE, linestyle="-", label="validation"),
        ]
    _finish_log(axes, "loss, relative error", next(iter(arrays.values())).size)
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)


def _samples(true: ArrayLike, predicted: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted observables as arrays (n, dQ) of one shape, no true sample zero."""
    true, predicted = np.asarray(true, dtype=float), np.asarray(predicted, dtype=float)
    if true.ndim != 2 or true.size == 0:
        raise input_error(
            "true",
            expected="shape (n, dQ) with at least one sample",
            received=f"shape {true.shape}",
            remedy="Put the sample first; a single observable vector q is q[None, :].",
        )
    if predicted.shape != true.shape:
        raise input_error(
            "predicted",
            expected=f"shape {true.shape}, that of true",
            received=f"shape {predicted.shape}",
            remedy="Predict at the parameters of the true observables, in their order.",
        )
    for name, array in (("true", true), ("predicted", predicted)):
        if not np.isfinite(array).all():
            raise input_error(
                name,
                expected="finite values",
                received=f"{np.count_nonzero(~np.isfinite(array))} that are nan or infinite",
                remedy="Leave out the samples whose solve failed.",
            )
    zero = np.flatnonzero(np.linalg.norm(true, axis=1) == 0)
    if zero.size:
        raise input_error(
            "true",
            expected="samples that are not zero, to divide their error by",
            received=f"zero at index {zero[0]} ({zero.size} in all)",
            remedy="Leave these samples out of both arrays.",
        )
    return true, predicted


def _standard_deviations(noise_std: ArrayLike, dim: int) -> np.ndarray:
    """`noise_std` as positive values (dim,)."""
    array = np.asarray(noise_std, dtype=float)
    if array.shape not in ((), (dim,)) or not (array > 0).all() or not np.isfinite(array).all():
        raise input_error(
            "noise_std",
            expected=f"one positive number or shape ({dim},), positive",
            received=f"shape {array.shape}, smallest {array.min() if array.size else 'missing'}",
            remedy="Pass the square roots of the noise variances, np.sqrt(np.diag(covariance)).",
        )
    return np.broadcast_to(array, (dim,))


def plot_observables(true: ArrayLike, predicted: ArrayLike, noise_std: ArrayLike | None = None) -> Figure:
    """Predicted against true observables, and a histogram of the residuals.

    The title gives the relative L2 error sqrt(mean_i |q_i - q̂_i|² / |q_i|²).

    Parameters
    ----------
    true, predicted : (n, dQ)
        Observables of the PDE and of the surrogate at the same n parameters.
    noise_std : float or (dQ,), optional
        Standard deviations of the observation noise, in the observable's units; residuals are then
        counted in them, and the range of one deviation is shaded.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If shapes differ, a true sample is zero, or a deviation is not positive.

    Examples
    --------
    >>> figure = plot_observables([[3.0, 4.0]], [[3.0, 4.5]])
    >>> figure.axes[0].get_title()
    'relative $L^2$ error 0.1'
    """
    true, predicted = _samples(true, predicted)
    residual = predicted - true
    error = np.sqrt(np.mean(np.sum(residual**2, axis=1) / np.sum(true**2, axis=1)))
    unit = None if noise_std is None else _standard_deviations(noise_std, true.shape[1])
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    scatter, histogram = figure.subplots(1, 2)
    _draw_scatter(scatter, true, predicted)
    scatter.set_title(f"relative $L^2$ error {error:.3g}")
    _draw_histogram(histogram, residual if unit is None else residual / unit, in_deviations=unit is not None)
    return figure


def _draw_scatter(axes: Axes, true: np.ndarray, predicted: np.ndarray) -> None:
    """One dot for each observable of each sample, on the diagonal where they agree."""
    low, high = min(true.min(), predicted.min()), max(true.max(), predicted.max())
    margin = 0.03 * (high - low) or 0.5
    ends = [low - margin, high + margin]
    many = true.size > 2000
    axes.scatter(
        true.ravel(), predicted.ravel(), s=6 if many else 14, alpha=0.3 if many else 0.6, color=COLORS[0],
        linewidths=0, rasterized=many,
    )  # fmt: skip
    axes.plot(ends, ends, color=REFERENCE, linestyle="--", linewidth=1, label="predicted = true")
    axes.set(xlim=ends, ylim=ends, aspect="equal", xlabel="true observable", ylabel="predicted observable")
    axes.legend(loc="upper left")


def _draw_histogram(axes: Axes, residual: np.ndarray, *, in_deviations: bool) -> None:
    """Counts of residuals; the title gives their root mean square."""
    bins = int(np.clip(np.sqrt(residual.size), 10, 60))
    axes.hist(residual.ravel(), bins=bins, color=COLORS[0], alpha=0.8)
    rms = np.sqrt(np.mean(residual**2))
    if in_deviations:
        ends = axes.get_xlim()
        axes.axvspan(-1, 1, color=COLORS[4], alpha=0.2, zorder=0, label="within one noise standard deviation")
        axes.set_xlim(ends)
        axes.margins(y=0.2)  # room for the legend above the bars
        axes.legend(loc="upper right")
    axes.axvline(0.0, color=REFERENCE, linestyle="--", linewidth=1)
    unit = " (noise standard deviations)" if in_deviations else ""
    axes.set_title(f"root mean square residual {rms:.3g}" + (" noise std" if in_deviations else ""))
    axes.set_xlabel(f"predicted − true{unit}")
    axes.set_ylabel("count")


def plot_eigenvalues(spectra: Mapping[str, ArrayLike]) -> Figure:
    """Eigenvalues of the prior-preconditioned misfit Hessian, with the line at 1.

    Directions above the line are informed more by the data than by the prior.  With exactly two
    spectra a second panel shows |λ₂ - λ₁| / |λ₁| over their common indices; the first is the reference.

    Parameters
    ----------
    spectra : dict of (n,) arrays
        Label to eigenvalues, descending, for instance ``{"PDE": d_pde, "surrogate": d_surrogate}``;
        the lengths may differ.  Values that are not positive are left out and counted in the legend.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there is no spectrum, or one is not of shape (n,).

    Examples
    --------
    >>> figure = plot_eigenvalues({"PDE": [100.0, 10.0, 0.5], "surrogate": [101.0, 9.9, 0.5]})
    >>> len(figure.axes)
    2
    """
    lines = _lines(spectra)
    heights = [4.0, 1.8] if len(lines) == 2 else [4.0]
    figure = Figure(figsize=(6.5, 0.4 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    labels = [f"{label}, {np.count_nonzero(values > 1)} above 1" for label, values in lines.items()]
    draw_spectra(panels[0], lines, labels, broad_first=True)
    panels[0].axhline(1.0, color=REFERENCE, linestyle="--", linewidth=1, label="1: data-informed above")
    panels[0].legend()
    if len(lines) == 2:
        _draw_difference(panels[1], *lines.values())
    panels[-1].set_xlabel("index")
    return figure


def _draw_difference(axes: Axes, reference: np.ndarray, other: np.ndarray) -> None:
    """Relative difference of `other` (n2,) from `reference` (n1,), over their common indices."""
    n = min(reference.size, other.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.abs(other[:n] - reference[:n]) / np.abs(reference[:n])
    _draw_log(axes, difference, color=REFERENCE)
    _finish_log(axes, "relative\ndifference", max(reference.size, other.size))
    if np.array_equal(reference[:n], other[:n]):
        axes.text(0.5, 0.5, "identical", transform=axes.transAxes, ha="center", va="center", color=REFERENCE)

"""What a trained DINO does well and where it fails, of plain arrays.  No dolfin, no Keras here."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from hippylib_dino.plotting.curves import draw_spectra
from hippylib_dino.plotting.figures import COLORS, REFERENCE, check_entries, input_error
from hippylib_dino.reduction.basis import Basis

QUIET = 1e-12  # of the whole energy: less is rounding, and is not drawn


def _errors(errors: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """Relative errors of samples as arrays (n,), all of one length."""
    check_entries(errors, "errors")
    arrays = {label: np.asarray(values, dtype=float) for label, values in errors.items()}
    n = next(iter(arrays.values())).size
    for label, values in arrays.items():
        if values.shape != (n,) or n == 0 or not np.isfinite(values).all():
            raise input_error(
                f"errors[{label!r}]",
                expected=f"finite values of shape ({n or 'n'},), one a sample",
                received=f"shape {values.shape}, {np.count_nonzero(~np.isfinite(values))} not finite",
                remedy="Pass np.sqrt of what DINO.sample_errors gives.",
            )
    return arrays


def percent(value: float) -> str:
    """Three digits, for instance "4.07 %"; "0" for what is only rounding."""
    return "0" if value <= QUIET else f"{100 * value:.3g} %"


def _percent(axes: Axes, which: str) -> None:
    """Percent on a linear or log axis, without zeros that say nothing."""
    axis = {"x": axes.xaxis, "y": axes.yaxis}[which]
    axis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    if np.ptp(np.log10(axis.get_view_interval())) < 1.3:  # too few powers of ten to read the scale from
        axis.set_minor_formatter(
            lambda value, _: f"{100 * value:.4g} %" if f"{value:.0e}"[0] in "25" else "",
        )


def plot_sample_errors(errors: Mapping[str, ArrayLike]) -> Figure:
    """Share of the samples whose relative error is below a bound, one curve a metric; median and root mean square.

    Parameters
    ----------
    errors : dict of (n,) arrays
        Label to relative errors of the samples, not squared.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there are no errors, or their shapes differ.

    Examples
    --------
    >>> figure = plot_sample_errors({"observable": [0.01, 0.02, 0.04]})
    >>> figure.axes[0].get_xscale()
    'log'
    """
    arrays = _errors(errors)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for (label, values), color in zip(arrays.items(), cycle(COLORS)):
        mean = np.sqrt(np.mean(values**2))
        label = f"{label}: median {percent(np.median(values))}, largest {percent(values.max())}"
        axes.ecdf(values, color=color, linewidth=1.8, label=label)
        axes.axvline(mean, color=color, linestyle=":", linewidth=1.2)
    axes.plot([], [], color=REFERENCE, linestyle=":", label="root mean square, the error of the table")
    positive = np.concatenate([values[values > 0] for values in arrays.values()])
    if positive.size:
        axes.set_xscale("log")
        axes.set_xlim(positive.min() / 1.2, positive.max() * 1.2)
        _percent(axes, "x")
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.grid(True, alpha=0.3, which="both")
    axes.set(xlabel="relative error of a sample", ylabel="samples with a smaller error")
    figure.legend(loc="outside upper left", frameon=False)
    return figure


def plot_error_shares(parts: Mapping[str, tuple[float, float]]) -> Figure:
    """Truncation against network error: the two shares of each squared error.

    Parameters
    ----------
    parts : dict of (truncation, network)
        Label to relative errors, not squared, that are orthogonal to each other.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there are none, or one is negative.

    Examples
    --------
    >>> figure = plot_error_shares({"observable": (0.01, 0.03), "Jacobian": (0.04, 0.03)})
    >>> [round(patch.get_width(), 2) for patch in figure.axes[0].patches]
    [0.1, 0.64, 0.9, 0.36]
    """
    check_entries(parts, "parts")
    for label, pair in parts.items():
        if len(pair) != 2 or not min(pair) >= 0:
            raise input_error(
                f"parts[{label!r}]",
                expected="(truncation, network), both at least 0",
                received=repr(pair),
                remedy="Take them from DINO.evaluate.",
            )
    figure = Figure(figsize=(7, 1.2 + 0.9 * len(parts)), layout="constrained")
    axes = figure.add_subplot()
    squares = np.array(list(parts.values()), dtype=float) ** 2
    total = squares.sum(axis=1)
    shares = squares / np.where(total > 0, total, 1.0)[:, None]
    rows, left = np.arange(len(parts)), np.zeros(len(parts))
    for i, (name, color) in enumerate((("truncation: the bases", COLORS[4]), ("network", COLORS[0]))):
        axes.barh(rows, shares[:, i], left=left, color=color, height=0.6, label=name)
        for row in rows:
            if shares[row, i] > 0.08:
                middle, ink = left[row] + shares[row, i] / 2, "white" if color == COLORS[0] else "black"
                axes.text(middle, row, percent(shares[row, i]), ha="center", va="center", color=ink)
        left = left + shares[:, i]
    labels = [
        f"{label} {percent(np.sqrt(t))}\ntruncation {percent(truncation)}\nnetwork {percent(network)}"
        for (label, (truncation, network)), t in zip(parts.items(), total, strict=True)
    ]
    axes.set_yticks(rows, labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_xlabel("share of the squared error")
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def plot_error_against_size(size: ArrayLike, errors: Mapping[str, ArrayLike]) -> Figure:
    """Does it fail far from the mean?  Errors of samples against |x|²/rM, with medians of equal groups.

    Parameters
    ----------
    size : (n,)
        |x|² / rM of the latent parameters, 1 on average under the prior.
    errors : dict of (n,) arrays
        Label to relative errors of the samples, not squared.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If the errors are not of the shape of `size`.

    Examples
    --------
    >>> figure = plot_error_against_size([0.9, 1.1], {"observable": [0.01, 0.02]})
    >>> len(figure.axes[0].collections)
    1
    """
    arrays = _errors(errors)
    size = np.asarray(size, dtype=float)
    n = next(iter(arrays.values())).size
    if size.shape != (n,):
        raise input_error(
            "size",
            expected=f"shape ({n},), one value for each error",
            received=f"shape {size.shape}",
            remedy="Pass (x**2).mean(axis=1) of the samples that the errors are of.",
        )
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    groups = np.array_split(np.argsort(size), max(1, min(8, n // 10)))
    for (label, values), color in zip(arrays.items(), cycle(COLORS)):
        axes.scatter(size, values, s=10, alpha=0.35, color=color, linewidths=0)
        middles = [[np.median(size[group]), np.median(values[group])] for group in groups]
        axes.plot(*np.transpose(middles), color=color, marker="o", markersize=5, linewidth=2, label=f"{label}, medians")
    axes.axvline(1.0, color=REFERENCE, linestyle="--", linewidth=1, label="mean under the prior")
    if all((values > 0).any() for values in arrays.values()):
        axes.set_yscale("log")
        _percent(axes, "y")
    axes.grid(True, alpha=0.3)
    axes.set(xlabel="|x|² / rM, size of the latent parameter", ylabel="relative error of a sample")
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    return figure


def plot_directions(truth: ArrayLike, error: ArrayLike) -> Figure:
    """Energy of the Jacobian's columns and of their errors, by latent direction; below, the relative errors.

    Parameters
    ----------
    truth, error : (rM,)
        Mean squares of the columns of the true Jacobian, and of the difference from it.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If the shapes differ, or nothing is there.

    Examples
    --------
    >>> figure = plot_directions([4.0, 1.0], [0.04, 0.04])
    >>> figure.axes[1].lines[0].get_ydata().tolist()
    [0.1, 0.2]
    """
    truth, error = np.asarray(truth, dtype=float), np.asarray(error, dtype=float)
    if truth.ndim != 1 or truth.shape != error.shape or not truth.sum() > 0:
        raise input_error(
            "truth, error",
            expected="two arrays (rM,), the first not zero",
            received=f"shapes {truth.shape} and {error.shape}",
            remedy="Pass ((J**2).mean(axis=0)).sum(axis=0) of Jacobians (n, rQ, rM) and of their errors.",
        )
    figure = Figure(figsize=(7, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    index = np.arange(1, truth.size + 1)
    for values, label, color in ((truth, "truth", REFERENCE), (error, "error", COLORS[1])):
        seen = values > QUIET * truth.sum()
        above.plot(index[seen], values[seen] / truth.sum(), color=color, linewidth=1.8, label=label)
    above.set_yscale("log")
    above.set_ylabel("share of the\nJacobian's energy")
    above.legend()
    held = truth > QUIET * truth.sum()
    below.plot(index[held], np.sqrt(error[held] / truth[held]), color=COLORS[1], linewidth=1.8)
    below.axhline(1.0, color=REFERENCE, linestyle="--", linewidth=1, label="as large as the truth")
    below.set_yscale("log")
    _percent(below, "y")
    below.set(xlabel="latent direction", ylabel="relative error\nof the column")
    below.legend(loc="lower right")
    for axes in (above, below):
        axes.grid(True, alpha=0.3)
    return figure


def plot_prediction(true: ArrayLike, predicted: ArrayLike, noise_std: ArrayLike | None = None) -> Figure:
    r"""One sample's observables by number, true and predicted; below, their difference.

    Parameters
    ----------
    true, predicted : (dQ,)
    noise_std : float or (dQ,), optional
        Standard deviations of the noise: the difference is then counted in them.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> figure = plot_prediction([3.0, 4.0], [3.0, 4.5], noise_std=0.25)
    >>> figure.axes[1].get_ylabel()
    'difference\n(noise std)'
    """
    true, predicted = np.asarray(true, dtype=float), np.asarray(predicted, dtype=float)
    if true.ndim != 1 or true.size == 0 or predicted.shape != true.shape:
        raise input_error(
            "true, predicted",
            expected="two arrays (dQ,)",
            received=f"shapes {true.shape} and {predicted.shape}",
            remedy="Pass one sample; plot_observables takes many.",
        )
    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.4])
    index = np.arange(1, true.size + 1)
    many = true.size > 200
    for values, label, color, marker in ((true, "true", REFERENCE, "o"), (predicted, "predicted", COLORS[1], "x")):
        style = {"linewidth": 1.2} if many else {"linestyle": "", "marker": marker, "markersize": 5}
        above.plot(index, values, color=color, label=label, **style)
    above.set_ylabel("observable")
    difference = predicted - true
    unit = ""
    if noise_std is not None:
        difference, unit = difference / np.asarray(noise_std), "\n(noise std)"
        below.axhspan(-1, 1, color=COLORS[4], alpha=0.2, label="one noise standard deviation")
    below.axhline(0.0, color=REFERENCE, linewidth=0.8)
    below.vlines(index, 0.0, difference, color=COLORS[1], linewidth=0.8 if many else 1.5)
    below.set(xlabel="number of the observable", ylabel=f"difference{unit}")
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    for axes in (above, below):
        axes.grid(True, alpha=0.3)
    return figure


def plot_bases(input_basis: Basis, output_basis: Basis) -> Figure:
    """Spectra of both bases with their ranks, and the share of the energy that each rank leaves out.

    Parameters
    ----------
    input_basis, output_basis : Basis

    Returns
    -------
    matplotlib.figure.Figure
    """
    bases = {f"input, {input_basis.kind}": input_basis, f"output, {output_basis.kind}": output_basis}
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    spectra, left_out = figure.subplots(1, 2, sharex=True)
    draw_spectra(spectra, {label: basis.eigenvalues for label, basis in bases.items()}, list(bases), broad_first=False)
    for (label, basis), color in zip(bases.items(), COLORS, strict=False):
        rest = 1.0 - basis.energy()
        seen = rest > QUIET
        at_rank = rest[basis.rank - 1]
        said = percent(at_rank) if at_rank > QUIET else "nothing"
        part = "" if basis.total_energy is not None else " of what was computed"
        text = f"{label}: rank {basis.rank} leaves out {said}{part}"
        left_out.plot(np.flatnonzero(seen) + 1, rest[seen], color=color, linewidth=1.5, label=text)
        if at_rank > QUIET:
            left_out.plot(basis.rank, at_rank, color=color, marker="o", markersize=7)
        for axes in (spectra, left_out):
            axes.axvline(basis.rank, color=color, linestyle=":", linewidth=1.4)
    spectra.set_xlabel("index (dotted: rank)")
    left_out.set_yscale("log")
    _percent(left_out, "y")
    left_out.set(xlabel="rank", ylabel="energy that it leaves out")
    left_out.grid(True, alpha=0.3)
    figure.legend(*left_out.get_legend_handles_labels(), loc="outside upper left", frameon=False)
    return figure

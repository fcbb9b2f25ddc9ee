"""Designs of sensors: where they are and in which order, what they gain, and how they compare with random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from hippylib_dino.plotting.figures import COLORS, REFERENCE, check_entries, input_error


def plot_design(
    points: ArrayLike,
    sensors: Sequence[int],
    *,
    scores: ArrayLike | None = None,
    units: str = "",
    labels: Sequence[str] = ("x", "y", "z"),
) -> Figure:
    """Map of the candidates with the chosen sensors numbered in their order.

    Parameters
    ----------
    points : (n_candidates, 2) or (n_candidates, 3)
        Where the candidates are, in a plane or in space.
    sensors : sensor numbers
        In order; an `hd.oed.Design` is.
    scores : (n_candidates,), optional
        Colours of the candidates, such as the criterion of each alone.
    units : str
        Label of the colour bar.
    labels : sequence of str
        Of the axes.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If points are not of two or three dimensions, a sensor is none of them, or there is not one score for each.
    """
    places, chosen = np.asarray(points, dtype=float), list(sensors)
    if places.ndim != 2 or places.shape[1] not in (2, 3):
        raise input_error(
            "points",
            expected="shape (n_candidates, 2) or (n_candidates, 3)",
            received=f"shape {places.shape}",
            remedy="Pass the coordinates of each candidate.",
        )
    if not chosen or min(chosen) < 0 or max(chosen) >= len(places):
        raise input_error(
            "sensors",
            expected=f"numbers of candidates, 0 to {len(places) - 1}",
            received=f"{chosen}",
            remedy="Pass a design of these candidates.",
        )
    if scores is not None and np.shape(scores) != (len(places),):
        raise input_error(
            "scores", expected=f"shape ({len(places)},)", received=f"{np.shape(scores)}", remedy="One a candidate."
        )
    solid = places.shape[1] == 3
    figure = Figure(figsize=(5.6 if scores is None else 6.6, 5.2), layout="constrained")
    # Any: axes in space and in a plane take the same calls with more coordinates
    axes: Any = figure.add_subplot(projection="3d") if solid else figure.add_subplot()
    axes.set_title(f"{len(chosen)} of {len(places)} candidates, in order")
    others = np.delete(np.arange(len(places)), chosen)
    if scores is None:
        axes.scatter(*places[others].T, s=26, facecolor="none", edgecolor=REFERENCE, linewidth=0.9)
    else:
        colors = np.asarray(scores, dtype=float)
        dots = axes.scatter(
            *places[others].T, s=46, c=colors[others], cmap="viridis", vmin=colors.min(), vmax=colors.max()
        )
        figure.colorbar(dots, ax=axes, label=units, shrink=0.85, pad=0.12 if solid else 0.05)
    shade = {"depthshade": False} if solid else {}
    axes.scatter(*places[chosen].T, s=260, color=COLORS[1], edgecolor="white", linewidth=1.0, zorder=3, **shade)
    for number, place in enumerate(places[chosen], start=1):
        axes.text(*place, str(number), ha="center", va="center", color="white", fontsize=9, zorder=4)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    if solid:
        axes.set_zlabel(labels[2])
    else:
        axes.set_aspect("equal")
        axes.margins(0.08)
    return figure


def plot_gain(
    paths: Mapping[str, Sequence[float]],
    random: Mapping[int, ArrayLike] | None = None,
    *,
    criterion: str = "expected information gain (nats)",
) -> Figure:
    """Criterion against the number of sensors, with the band of random designs.

    Parameters
    ----------
    paths : mapping of str to sequence of float
        Values of 1, 2, ... sensors by label, such as `hd.oed.Design.path`; NaN where there is none.
    random : mapping of int to array (n,), optional
        Values of random designs by their number of sensors.
    criterion : str
        Label, with its units.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there is no path, or an empty one.
    """
    check_entries(paths, "paths")
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    if random:
        sizes = sorted(random)
        values = [np.asarray(random[k], dtype=float) for k in sizes]
        low, middle, high = np.array([np.quantile(v, (0.0, 0.5, 1.0)) for v in values]).T
        n = min(len(v) for v in values)
        axes.fill_between(sizes, low, high, color=REFERENCE, alpha=0.2, linewidth=0, label=f"{n} random designs")
        axes.plot(sizes, middle, color=REFERENCE, linewidth=1, label="their median")
    for color, (label, path) in zip(COLORS * len(paths), paths.items(), strict=False):
        if not len(path):
            raise input_error(
                f"paths[{label!r}]", expected="at least one value", received="none", remedy="Pass design.path."
            )
        axes.plot(np.arange(1, len(path) + 1), path, marker="o", markersize=4, color=color, label=label)
    axes.set(xlabel="number of sensors", ylabel=criterion)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.grid(True, alpha=0.3)
    axes.legend()
    return figure


def plot_random_designs(
    values: ArrayLike, found: Mapping[str, float], *, criterion: str = "expected information gain (nats)"
) -> Figure:
    """Histogram of the criterion of random designs, with the designs that were found.

    Parameters
    ----------
    values : (n,)
        Of random designs; those that are not finite are left out.
    found : mapping of str to float
        Values of designs by label.
    criterion : str
        Label, with its units.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there are no values, or no design.
    """
    check_entries(found, "found")
    drawn = np.asarray(values, dtype=float).ravel()
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        raise input_error("values", expected="at least one finite value", received="none", remedy="Draw some designs.")
    figure = Figure(figsize=(7, 4.0), layout="constrained")
    axes = figure.add_subplot()
    edges = np.histogram_bin_edges(drawn, bins="auto").tolist()
    axes.hist(drawn, edges, color=COLORS[0], alpha=0.6, label=f"{len(drawn)} random designs")
    for color, (label, value) in zip(COLORS[1:] * len(found), found.items(), strict=False):
        worse = np.mean(drawn < value)
        axes.axvline(value, color=color, linewidth=2, label=f"{label}: {value:.4g}, better than {worse:.0%}")
    axes.set(xlabel=criterion, ylabel="designs")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    return figure

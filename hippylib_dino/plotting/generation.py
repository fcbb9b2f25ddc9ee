"""What a dataset cost, and what its bases leave: a picture for whoever generated it.  No dolfin here."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hippylib_dino.data.dataset import Dataset
from hippylib_dino.data.layout import FAILED
from hippylib_dino.plotting.curves import draw_spectra
from hippylib_dino.plotting.figures import COLORS, REFERENCE, input_error


def plot_dataset(dataset: Dataset) -> Figure:
    """Seconds and Newton iterations of the solves, size of the latent samples, decay of the bases' spectra.

    Parameters
    ----------
    dataset : Dataset
        With bases, and at least one finished sample.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If no sample is finished.

    Examples
    --------
    ::

        figure = plotting.plot_dataset(hd.Dataset.open("data/confusion"))
        plotting.save(figure, "dataset.png")
    """
    if not dataset.has_bases or not len(dataset.x):
        raise input_error(
            "dataset",
            expected="one with bases and finished samples",
            received=repr(dataset),
            remedy="Finish hd.generate(..., resume=True).",
        )
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2)
    work = dataset.work
    _histogram(axes[0, 0], work["seconds"], "seconds a sample")
    _counts(axes[0, 1], work["newton_iterations"])
    _latent_size(axes[1, 0], dataset)
    _spectra(axes[1, 1], dataset)
    failed = int((dataset.status == FAILED).sum())
    figure.suptitle(f"{dataset.path.name}: {len(dataset.x)} samples, {failed} failed")
    return figure


def _known(values: np.ndarray) -> np.ndarray:
    return values[values >= 0]


def _histogram(axes: Axes, values: np.ndarray, label: str) -> None:
    known = _known(values)
    if len(known):
        axes.hist(known, bins="auto", color=COLORS[0])
        median = float(np.median(known))
        axes.axvline(median, color=REFERENCE, linestyle="--", label=f"median {median:.3g}")
        axes.legend()
    axes.set(xlabel=label, ylabel="samples")


def _counts(axes: Axes, iterations: np.ndarray) -> None:
    """A bar a number; problems whose solver does not report have none."""
    known = _known(iterations)
    numbers, counts = np.unique(known, return_counts=True)
    axes.bar(numbers, counts, color=COLORS[0])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="steps of the forward solve", ylabel="samples")
    if not len(known):
        axes.text(0.5, 0.5, "not reported by the solver", transform=axes.transAxes, ha="center", color=REFERENCE)


def _latent_size(axes: Axes, dataset: Dataset) -> None:
    """|x|² / rM is 1 on average under the prior; failed samples are marked, if there are any."""
    rank = dataset.plan.input_rank
    x = dataset.x[:, :rank]  # without a control's part
    axes.hist((x**2).sum(axis=1) / rank, bins="auto", color=COLORS[0], label="solved")
    basis = dataset.basis("input")
    for i, record in enumerate(dataset.failures):
        size = (basis.encode(dataset.failed_parameter(record["index"])) ** 2).sum() / rank
        axes.axvline(size, color=COLORS[1], linewidth=1, label="failed" if i == 0 else None)
    axes.axvline(1.0, color=REFERENCE, linestyle="--", label="mean under the prior")
    axes.set(xlabel="|x|² / rM", ylabel="samples")
    axes.legend()


def _spectra(axes: Axes, dataset: Dataset) -> None:
    bases = {name: dataset.basis(name) for name in ("input", "output")}
    labels = [f"{name}, {basis.kind}" for name, basis in bases.items()]
    draw_spectra(axes, {name: basis.eigenvalues for name, basis in bases.items()}, labels, broad_first=False)
    for basis, color in zip(bases.values(), COLORS, strict=False):
        axes.axvline(basis.rank, color=color, linestyle=":", linewidth=1)
    axes.set_xlabel("index (dotted: rank)")
    axes.legend()

"""The report of a trained DINO: how well it does and what to spend on, in Markdown and in one HTML file.

Needs neither dolfin nor Keras.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from hippylib_dino import __version__, plotting
from hippylib_dino.data.dataset import Dataset, Samples
from hippylib_dino.errors import InputError
from hippylib_dino.files import write_file
from hippylib_dino.network.dino import DINO
from hippylib_dino.network.metrics import confidence_intervals, root_mean
from hippylib_dino.network.reference import HEADLINES, MODELS
from hippylib_dino.network.sizes import account_of_silent
from hippylib_dino.plotting.training import percent

N_WORST = 5
MINOR = 0.1  # share of a squared error below which its part is not worth lowering
GENERALISES = 1.5  # validation over training error up to which more data would not be the first thing to try
MEANINGS = {
    "observable": "full observable, relative to its spread about the mean",
    "observable_in_noise": "the same in noise standard deviations of one observable",
    "observable_truncation": "of it, what the output basis cuts off",
    "observable_network": "of it, what the network adds",
    "jacobian": "full Jacobian, from the prior's Cameron-Martin space to noise standard deviations",
    "jacobian_truncation": "of it, what both bases cut off",
    "jacobian_network": "of it, what the network adds",
    "reduced_jacobian": "Jacobian within the bases",
    "dominant_jacobian": "on each sample's leading half of singular vectors",
    "null_space": "spurious part outside the true Jacobian's row space",
    "gauss_newton": "Gauss-Newton Hessian of the misfit",
    "misfit_gradient": "gradient of the misfit for another sample's data",
    "misfit_gradient_riesz": "the same after the prior solve, as Newton-CG sees it",
    "jacobian_dof_frobenius": "full Jacobian as a coefficient matrix, Frobenius norm",
}
STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.8rem; text-align: left; font-variant-numeric: tabular-nums; }
img { max-width: 100%; }
h2 { margin-top: 2.5rem; }
code { background: #f2f2f2; padding: 0 0.2rem; }
"""


def report(dino: DINO, dataset: Dataset, folder: str | Path, part: str = "test", *, overwrite: bool = False) -> Path:
    """Write ``report.md`` with its figures, and ``report.html``, the same in one file.

    Errors with 95 % bootstrap intervals, truncation against network error and what follows from it, training history,
    spectra, the distribution of the errors, the worst samples, errors by latent direction and far from the mean.

    Parameters
    ----------
    dino : DINO
    dataset : Dataset
        As for `DINO.evaluate`.
    folder : path
        Made with its parents.
    part : str
        "test" (default), "validation" or "train".
    overwrite : bool
        Write into a folder that holds something; of that, only what has the names of the report is replaced.

    Returns
    -------
    Path
        Of ``report.html``.

    Raises
    ------
    InputError
        If the folder holds something and `overwrite` is False, or the dataset does not belong to the DINO.

    Examples
    --------
    ::

        dino = hd.train(dataset, "h1")
        hd.report(dino, dataset, "reports/confusion")
    """
    folder = Path(folder)
    check_folder(folder, overwrite)
    squares = dino.sample_errors(dataset, part)
    page = _Page(f"DINO {dino.training.get('formulation', '')} of {dataset.path.name}".replace("  ", " "))
    samples = dataset.split(part)
    _summary(page, dino, squares, part)
    _training(page, dino, dataset)
    values, jacobians = dino.predict_samples(dataset, samples)
    _samples(page, samples, squares)
    _worst(page, dino, dataset, samples, squares, values)
    _directions(page, samples, jacobians)
    _bases(page, dataset)
    return page.write(folder)


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise `InputError` if a report may not be written to `folder`."""
    if folder.is_file():
        raise InputError(f"folder: {str(folder)!r} is a file; choose another name.")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"folder: {str(folder)!r} is not empty; pass overwrite=True to write the report there all the same, or "
            "choose another name."
        )


class _Page:
    """Markdown that grows, and the figures that it shows."""

    def __init__(self, title: str):
        self.title = title
        self._blocks = [f"# {title}"]
        self._figures: dict[str, Figure] = {}

    def add(self, *blocks: str) -> None:
        self._blocks += blocks

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        lines = [header, ["---"] * len(header), *rows]
        text = ("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)
        self._blocks.append("\n".join(text))

    def figure(self, name: str, figure: Figure, alternative: str) -> None:
        self._figures[f"{name}.png"] = figure
        self._blocks.append(f"![{alternative}]({name}.png)")

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        text = "\n\n".join(self._blocks) + "\n"
        body = MarkdownIt("commonmark").enable("table").render(text)
        for name, figure in self._figures.items():
            plotting.save(figure, folder / name)
            inlined = base64.b64encode((folder / name).read_bytes()).decode()
            body = body.replace(f'src="{name}"', f'src="data:image/png;base64,{inlined}"')
        page = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
            f"<style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n"
        )
        write_file(folder / "report.md", lambda stream: stream.write(text.encode()))
        write_file(folder / "report.html", lambda stream: stream.write(page.encode()))
        return folder / "report.html"


def _summary(page: _Page, dino: DINO, squares: dict[str, np.ndarray], part: str) -> None:
    n = len(squares["observable"])
    trivial = {f"{name}_{model}" for name in HEADLINES for model in MODELS}  # these have columns
    errors = {name: root_mean(values) for name, values in squares.items()}
    intervals = confidence_intervals({name: values for name, values in squares.items() if name not in trivial})
    page.add(
        f"Relative errors on {n} {part} samples: root mean square, and 95 % bootstrap interval over the samples. "
        "Beside them what trivial models score, which a network has to beat: the mean observable of the training "
        "samples (constant), and the affine map with their mean Jacobian."
    )
    page.table(
        ("error", "", "95 % interval", *MODELS, "of"),
        (
            (
                f"`{name}`",
                percent(errors[name]),
                " .. ".join(map(percent, intervals[name])),
                *(percent(errors[key]) if (key := f"{name}_{model}") in errors else "" for model in MODELS),
                MEANINGS.get(name, ""),
            )
            for name in sorted(intervals, key=_place)
        ),
    )
    page.add("## What to spend on")
    trained = dino.training.get("history") or dino.training.get("members")
    effort = "more samples or epochs" if trained else "better maps within the bases"
    for name, label, ranks in (
        ("observable", "observable", "larger output ranks"),
        ("jacobian", "Jacobian", "larger ranks"),
    ):
        truncation, network = (errors[f"{name}_{part}"] for part in ("truncation", "network"))
        page.add(verdict(label, truncation, network, ranks=ranks, effort=effort))
    page.add(*_generalisation(dino.training.get("history", {}), dino.training.get("best_epoch")))
    parts = {
        label: (errors[f"{name}_truncation"], errors[f"{name}_network"])
        for name, label in (("observable", "observable"), ("jacobian", "Jacobian"))
    }
    page.figure("shares", plotting.plot_error_shares(parts), "Shares of truncation and network in the squared errors")


def _place(name: str) -> int:
    names = list(MEANINGS)
    return names.index(name) if name in names else len(names)


def verdict(label: str, truncation: float, network: float, *, ranks: str, effort: str) -> str:
    """What lowers an error of which the bases and the network have these parts.

    Parameters
    ----------
    label : str
        Of the error.
    truncation, network : float
        Relative errors.
    ranks, effort : str
        What lowers the one and the other.

    Examples
    --------
    >>> said = verdict("Jacobian", 0.01, 0.05, ranks="larger ranks", effort="more samples or epochs")
    >>> said.split(". ")[0]
    'Truncation is 3.85 % of the squared Jacobian error: more samples or epochs help, larger ranks do not'
    """
    total = truncation**2 + network**2
    if not total > 0:
        return f"There is no {label} error to lower."
    share = truncation**2 / total
    if share < MINOR:
        advice = f"{effort} help, {ranks} do not."
    elif share > 1 - MINOR:
        advice = f"{ranks} help, {effort} do not."
    else:
        advice = f"{ranks} help, and so do {effort}."
    return (
        f"Truncation is {percent(share)} of the squared {label} error: {advice} Without truncation the error would be "
        f"{percent(network)}, without network error {percent(truncation)}."
    )


def _generalisation(history: dict[str, list[float]], best_epoch: int | None) -> list[str]:
    """Whether samples or epochs, from training and validation errors of the epoch whose weights were kept."""
    lines = []
    for key, label in (("observable_error", "observable"), ("error", "observable"), ("jacobian_error", "Jacobian")):
        if best_epoch is None or not {key, f"val_{key}"} <= set(history):
            continue
        training, validation = history[key][best_epoch - 1], history[f"val_{key}"][best_epoch - 1]
        if not training > 0 or not validation > 0:
            continue
        advice = (
            "more training samples help more than epochs."
            if validation > GENERALISES * training
            else "more epochs or a larger network help more than samples."
        )
        lines.append(
            f"The network's {label} error was {percent(training)} on training and {percent(validation)} on validation "
            f"samples: {advice}"
        )
    return lines


def _training(page: _Page, dino: DINO, dataset: Dataset) -> None:
    config = dino.architecture.get_config()
    hidden = ("kind", "input_rank", "output_rank", "input_scale", "output_scale")
    settings = {k: v for k, v in config.items() if k not in hidden and v is not None and len(str(v)) < 80}
    how = {
        k.replace("_", " "): v for k, v in dino.training.items() if k not in ("history", "members") and v is not None
    }
    page.add("## How it was trained")
    page.table(
        ("", ""),
        [
            ("architecture", f"{config['kind']}, {', '.join(f'{k}={v}' for k, v in settings.items())}".rstrip(", ")),
            ("weights", f"{sum(np.size(w) for w in dino.weights):,}"),
            (
                "dimensions",
                f"{dino.input_basis.dim} parameters → {dino.input_basis.rank} → {dino.output_basis.rank} → "
                f"{dino.output_basis.dim} observables",
            ),
            *how.items(),
            ("dataset", str(dataset.path)),
            ("hippylib_dino", __version__),
        ],
    )
    history = {
        k: v
        for k, v in dino.training.get("history", {}).items()
        if k in ("loss", "val_loss", "learning_rate") or k.endswith("error")
    }
    if history:
        page.figure("history", plotting.plot_history(history), "Loss and errors by epoch")
        which = "last epoch" if dino.training.get("keep") == "last" else "best validation loss"
        page.add(f"Losses are squared, errors are not. The weights of the {which} were kept.")


def _samples(page: _Page, samples: Samples, squares: dict[str, np.ndarray]) -> None:
    errors = {name: np.sqrt(values) for name, values in squares.items()}
    labels = {"observable": "observable", "jacobian": "Jacobian", "misfit_gradient_riesz": "misfit gradient (Riesz)"}
    shown = {label: errors[name] for name, label in labels.items() if name in errors}
    size = (samples.x**2).mean(axis=1)
    page.add("## Errors of the samples")
    page.figure("samples", plotting.plot_sample_errors(shown), "Distribution of the relative errors over the samples")
    page.add("Of the observable relative to its spread over the training samples, of the Jacobian to the sample's own.")
    page.add(*account_of_silent(samples))
    page.add("### Far from the mean")
    two = {label: shown[label] for label in ("observable", "Jacobian")}
    page.figure("size", plotting.plot_error_against_size(size, two), "Errors against the size of the parameter")
    if len(size) > 2 and all(np.ptp(values) > 0 for values in two.values()):
        ranks = ", ".join(f"{spearmanr(size, v).statistic:+.2f} for the {label}" for label, v in two.items())
        page.add(f"Rank correlation of size and error: {ranks}. Near +1 it fails far from the prior mean, near 0 not.")


def _worst(
    page: _Page, dino: DINO, dataset: Dataset, samples: Samples, squares: dict[str, np.ndarray], values: np.ndarray
) -> None:
    observable, jacobian = np.sqrt(squares["observable"]), np.sqrt(squares["jacobian"])
    size = (samples.x**2).mean(axis=1)
    worst = np.argsort(observable)[::-1][:N_WORST]
    page.add("### The worst samples")
    page.add(
        f"By observable error, of {len(size)}. The parameter of sample i is "
        f"`hd.data.draw_parameter(prior, {dataset.plan.seed}, i)`"
        + (", of one that was given `dataset.given_parameter(i)`." if dataset.given else ".")
    )
    page.table(
        ("sample", "observable", "Jacobian", "|x|²/rM"),
        ((samples.index[i], percent(observable[i]), percent(jacobian[i]), f"{size[i]:.2f}") for i in worst),
    )
    first = worst[0]
    if samples.observable is None:
        true, predicted, noise_std, what = samples.y[first], values[first], np.array(1.0), "latent observables"
    else:
        true, predicted, what = samples.observable[first], dino.output_basis.decode(values[first]), "observables"
        noise = dataset.weight_covariance
        noise_std = np.sqrt(np.diag(noise) if noise.ndim == 2 else noise)
    page.figure("worst", plotting.plot_prediction(true, predicted, noise_std), "The worst sample, true and predicted")
    page.add(f"The {what} of sample {samples.index[first]}, the worst one.")


def _directions(page: _Page, samples: Samples, jacobians: np.ndarray) -> None:
    if not samples.reduced_jacobian.any():
        return
    truth, error = (
        (columns**2).sum(axis=1).mean(axis=0)
        for columns in (samples.reduced_jacobian, jacobians - samples.reduced_jacobian)
    )
    page.add("## Jacobian by latent direction")
    page.figure("directions", plotting.plot_directions(truth, error), "Energy and error of the Jacobian's columns")
    if error.sum() > 0:
        half = int(np.searchsorted(np.cumsum(error), 0.5 * error.sum())) + 1
        better = int((error < truth).sum())
        page.add(
            f"Half of the network's squared error lies in the first {half} of {len(error)} directions. In {better} of "
            "them the network is closer to the truth than a Jacobian of zeros would be."
        )


def _bases(page: _Page, dataset: Dataset) -> None:
    page.add("## Bases")
    page.figure(
        "bases", plotting.plot_bases(dataset.basis("input"), dataset.output_basis), "Spectra and energy left out"
    )

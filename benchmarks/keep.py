"""Which weights of a training to keep: those of the last epoch, or those of the best validation loss.

    python -m benchmarks.keep                       # benchmarks/results/keep.md
    python -m benchmarks.keep --problem confusion   # one of `PROBLEMS` alone, printed

Applications of four kinds, at smoke size.  One training gives all columns: weights are noted whenever the
validation loss is taken, and the choice is made afterwards.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import typer

import hippylib_dino as hd
from benchmarks.tables import processor, table
from hippylib_dino.data.dataset import Samples
from hippylib_dino.network.formulations import L2, get_formulation
from hippylib_dino.network.sizes import spread

HERE = Path(__file__).parent
PROBLEMS = {  # mesh size, input rank, output rank
    "confusion": (16, 40, 25),
    "reaction_diffusion": (16, 40, 25),
    "hyperelasticity": (16, 40, 25),
    "heat": (12, 40, 25),
}
N_TRAIN, N_TEST = 96, 64
N_VALIDATION = (12, 48)  # what `hd.generate` makes by default for `N_TRAIN`, and four times as many
SEEDS = (0, 1)


class Snapshots(keras.callbacks.Callback):
    """The weights after each epoch that ends with a validation."""

    def __init__(self):
        super().__init__()
        self.weights: list[list[np.ndarray]] = []

    def on_epoch_end(self, epoch, logs=None):
        if "val_loss" in (logs or {}):
            self.weights.append([np.array(w) for w in self.model.get_weights()])


def dataset_of(problem: str) -> hd.Dataset:
    """Made once, in benchmarks/output."""
    mesh_size, input_rank, output_rank = PROBLEMS[problem]
    model = import_module(f"applications.{problem}").build(hd.sample_communicator(), mesh_size=mesh_size)
    output_basis = "pod" if model.whole_state else "derivative"
    return hd.generate(
        model, HERE / "output" / f"keep_{problem}", n_samples=N_TRAIN, n_validation=max(N_VALIDATION), n_test=N_TEST,
        input_rank=input_rank, output_rank=output_rank, output_basis=output_basis, resume=True,
    )  # fmt: skip


def loss(dino: hd.DINO, formulation: str, samples: Samples, size: float) -> float:
    """The loss that was trained, on these samples."""
    values, jacobians = dino.predict(samples.x)
    total = ((values - samples.y) ** 2).sum(axis=1).mean() / size
    chosen = get_formulation(formulation)
    if isinstance(chosen, L2):
        return total
    weights = np.atleast_1d(chosen.weights(samples))
    columns = ((jacobians - samples.reduced_jacobian) ** 2).sum(axis=1)
    return total + (weights.reshape(len(samples), -1) * columns).sum(axis=1).mean()


def kept(dataset: hd.Dataset, formulation: str, seed: int) -> dict[str, dict[str, float]]:
    """Errors on the test samples by what is kept."""
    noted = Snapshots()
    dino = hd.train(
        dataset, formulation, n_validation=N_VALIDATION[0], seed=seed, callbacks=[noted], progress=False
    )  # fmt: skip
    size = spread(dataset.split("train"), dataset)
    models = [replace(dino, weights=weights) for weights in noted.weights]
    chosen = {"last": models[-1]}
    for n in N_VALIDATION:
        samples = dataset.split("validation", n)
        chosen[f"best of {n}"] = min(models, key=lambda model: loss(model, formulation, samples, size))
    return {name: model.evaluate(dataset) for name, model in chosen.items()}


def measured(problem: str) -> list[list[str]]:
    """Rows of the table, which are kept in benchmarks/output once all are there."""
    file = HERE / "output" / f"keep_{problem}.json"
    if file.exists():
        return json.loads(file.read_text())
    dataset, rows = dataset_of(problem), []
    for formulation in ("h1", "l2"):
        for seed in SEEDS:
            errors = kept(dataset, formulation, seed)
            cells = [f"{100 * e['observable']:.2f} / {100 * e['jacobian']:.2f} %" for e in errors.values()]
            ratios = [e["jacobian"] / errors["last"]["jacobian"] for name, e in errors.items() if name != "last"]
            affine = errors["last"]
            trivial = f"{100 * affine['observable_affine']:.1f} / {100 * affine['jacobian_affine']:.1f} %"
            rows.append([problem, formulation, str(seed), trivial, *cells, *(f"{r:.2f}" for r in ratios)])
            print(" | ".join(rows[-1]), flush=True)
            keras.utils.clear_session()  # what was compiled is given back
    file.write_text(json.dumps(rows))
    return rows


def main(problem: Annotated[str, typer.Option(help="One problem alone.")] = "") -> None:
    rows = [row for name in ([problem] if problem else PROBLEMS) for row in measured(name)]
    names = [f"best of {n}" for n in N_VALIDATION]
    header = ["problem", "loss", "seed", "mean Jacobian", "last", *names, *(f"Jacobian, {n} / last" for n in names)]
    ratios = np.array([[float(cell) for cell in row[-len(names) :]] for row in rows])
    said = [
        f"Median of {name} / last, over all rows: {np.median(ratios[:, i]):.2f} (from {ratios[:, i].min():.2f} to "
        f"{ratios[:, i].max():.2f})."
        for i, name in enumerate(names)
    ]
    text = (
        "# Which weights to keep\n\n"
        f"N = {N_TRAIN} training samples, smoke sizes, defaults of `hd.train`; errors of observable (relative to its "
        f"spread) / full Jacobian on {N_TEST} test samples, and those of the affine map with the mean Jacobian. "
        f"Machine: {processor()}; command: `python -m benchmarks.keep`.\n\n{table(header, rows)}\n\n"
    )
    text += "\n".join(said) + "\n"
    if not problem:
        (HERE / "results" / "keep.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    typer.run(main)

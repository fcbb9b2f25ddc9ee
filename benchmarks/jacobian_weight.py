"""How much Jacobians should weigh in the loss, beside values that are relative to their spread.

    python -m benchmarks.jacobian_weight        # benchmarks/results/jacobian_weight.md

Takes the datasets benchmarks/output/training_<problem>; see `benchmarks/training_study.py`.
"""

from __future__ import annotations

from pathlib import Path

import typer

import hippylib_dino as hd
from benchmarks.tables import processor, table
from hippylib_dino.network.formulations import H1

HERE = Path(__file__).parent
RANKS = {"confusion": (100, 50), "hyperelasticity": (100, 100)}
WEIGHTS = (1.0, 10.0, 30.0, 100.0)
METRICS = {
    "observable": "observable",
    "jacobian": "full Jacobian",
    "gauss_newton": "Gauss-Newton",
    "misfit_gradient_riesz": "misfit gradient",
}


def main(n_train: int = 64, output: Path = HERE / "results" / "jacobian_weight.md") -> None:
    """The table, of one training for each weight."""
    rows = []
    for problem, ranks in RANKS.items():
        dataset = hd.Dataset.open(HERE / "output" / f"training_{problem}").truncate(*ranks)
        for weight in WEIGHTS:
            dino = hd.train(dataset, H1(weight), n_train=n_train, seed=0, progress=False)
            errors = dino.evaluate(dataset)
            rows.append([problem, f"{weight:g}", *(f"{errors[key]:.2%}" for key in METRICS)])
            print(rows[-1], flush=True)
    text = f"""# Weight of Jacobians in the loss `h1`, N = {n_train}

Machine: {processor()}; command: `python -m benchmarks.jacobian_weight`. Errors on 512 held-out samples, one seed.

{table(["problem", "weight", *METRICS.values()], rows)}
"""
    output.write_text(text)


if __name__ == "__main__":
    typer.run(main)

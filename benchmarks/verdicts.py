"""Verdicts of `certify` on surrogates that are wrong in known ways, where the truth is known in closed form.

    OMP_NUM_THREADS=1 python -m benchmarks.verdicts        # benchmarks/results/trust_verdicts.md

The problem, its exact DINO and the ways to be wrong are those of tests/surrogate/test_curvature.py.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import dolfin as dl
import numpy as np
import typer

import hippylib_dino as hd
from benchmarks.tables import processor, table
from tests import problems
from tests.surrogate.test_curvature import FAMILIES, THRESHOLD, certified_problem, verdicts

RESULT = Path(__file__).parent / "results" / "trust_verdicts.md"
NAMES = {
    "scaled": "0.37 to 4 times too large",
    "right_on_the_residual": "right on the residual, 1.5 to 4 times too large elsewhere",
    "rotated": "rotated",
    "one_direction": "one informed direction up to five times too large",
    "noisy": "noise as large as the weakly informed directions",
    "nearly_right": "right to 3 %",
    "ten_percent": "10 % too large or too small",
}


def main(n: int = 250, output: Path = RESULT) -> None:
    """The table, of n points for each way."""
    dl.set_log_level(dl.LogLevel.ERROR)
    model = problems.linear(hd.sample_communicator())
    with tempfile.TemporaryDirectory() as folder:
        affine = certified_problem(model, problems.affine_dino(model, Path(folder) / "linear"))
    rows, near, refused = [], 0, 0
    for family in FAMILIES:
        truth, estimate, trusted, old = verdicts(affine, family, n, seed=1).T
        far, passed = truth > THRESHOLD, trusted.astype(bool)
        near, refused = near + (~far).sum(), refused + (~far & ~passed).sum()
        low, high = np.quantile(estimate / truth, (0.05, 0.95))
        furthest = f"{truth[far & passed].max():.3f}" if (far & passed).any() else ""
        counts = [far.sum(), (far & passed).sum(), furthest, (far & (old <= THRESHOLD)).sum()]
        rows.append([NAMES[family.__name__], *counts, f"{low:.2f} to {high:.2f}"])
    header = ["the surrogate's Jacobian", f"off by more than {THRESHOLD:g}", "of these trusted", "the furthest of them",
              "trusted by the surrogate's own Hessian", "estimate / truth, 5 % to 95 %"]  # fmt: skip
    share = affine[3].d / (1 + affine[3].d)
    text = f"""# Verdicts on wrong surrogates, {n} points for each way to be wrong

Machine: {processor()}; command: `OMP_NUM_THREADS=1 python -m benchmarks.verdicts`.

An affine problem of nine observables, {share.sum():.1f} informed directions, whose MAP point and Hessian are known;
points at a known distance from it, up to 1.2 posterior deviations per informed direction.

{table(header, rows)}

Of the {near} points nearer than the threshold {refused} were refused.
"""
    output.write_text(text)
    print(text)


if __name__ == "__main__":
    typer.run(main)

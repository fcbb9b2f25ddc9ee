"""Accuracy and speed of the whole path on the convection-reaction-diffusion problem, 64 x 64.

    mpirun -n 2 hippylib-dino generate applications.confusion benchmarks/output/confusion \
        --n-samples 1024 --n-validation 128 --n-test 256
    python -m benchmarks.confusion_map

The second command trains four DINOs (values alone and H1; N = 256 and 1024), solves eight synthetic inverse problems
by PDE and surrogate in one run, and writes the tables to benchmarks/results/confusion_map.md.
"""

from __future__ import annotations

import time
from pathlib import Path

import dolfin as dl
import hippylib as hp
import numpy as np
import typer

import hippylib_dino as hd
from applications.confusion.model import build
from applications.study import compile_forms, relative_distance, solve_map, synthetic_data
from benchmarks.tables import plain_model, processor, table
from hippylib_dino.modeling.spaces import DofOrder

HERE = Path(__file__).parent
EPOCHS = {256: 300, 1024: 200}
N_DATA_SETS = 8
N_FROBENIUS = 32
METRICS = {
    "observable": "observable",
    "jacobian": "full Jacobian",
    "reduced_jacobian": "reduced Jacobian",
    "gauss_newton": "Gauss-Newton",
    "null_space": "null space",
    "misfit_gradient_riesz": "misfit gradient (Riesz)",
}
ERROR_COLUMNS = ["N train", "formulation", *METRICS.values(), "full Jacobian, dof Frobenius", "epochs", "training"]


def trained(dataset: hd.Dataset, formulation: str, n_train: int) -> tuple[hd.DINO, float]:
    """A DINO with the defaults of `hd.train`, and the seconds it took."""
    start = time.perf_counter()
    dino = hd.train(dataset, formulation, n_train=n_train, epochs=EPOCHS[n_train], seed=0)
    return dino, time.perf_counter() - start


def dof_frobenius(model: hd.JacobianModel, dataset: hd.Dataset, dinos: dict) -> tuple[dict, float]:
    """‖Ĵ - J‖_F/‖J‖_F of the coefficient matrices, and what the bases alone leave, on held-out samples."""
    order, samples = DofOrder(model.prior.Vh), dataset.split("test", N_FROBENIUS)
    squares: dict = {key: [] for key in (*dinos, "truncation")}
    encoder, decoder = dataset.input_basis.encoder, dataset.output_basis.decoder
    for i, index in enumerate(samples.index):
        m = hd.data.draw_parameter(model.prior, dataset.plan.seed, int(index))
        J = order.to_array(model.jacobian(m).owned_rows()).T
        latent = {key: dino.latent_map.jacobian(samples.x[i]) for key, dino in dinos.items()}
        latent["truncation"] = samples.reduced_jacobian[i]
        for key, reduced in latent.items():
            squares[key].append(((decoder @ reduced @ encoder.T - J) ** 2).sum() / (J**2).sum())
    errors = {key: float(np.sqrt(np.mean(values))) for key, values in squares.items()}
    return errors, errors.pop("truncation")


def single_point(dino: hd.DINO) -> float:
    """Median milliseconds of one value with its reduced Jacobian, float64."""
    x = np.random.default_rng(0).standard_normal((2000, dino.input_basis.rank))
    seconds = []
    for row in x:
        start = time.perf_counter()
        dino.latent_map.value_and_jacobian(row)
        seconds.append(time.perf_counter() - start)
    return 1e3 * float(np.median(seconds))


def inverse_problems(model: hd.JacobianModel, dino: hd.DINO) -> tuple[list[dict], float]:
    """PDE and surrogate, MAP and Laplace, on data sets whose truths were never trained on; plain hIPPYlib's MAP time.

    Returns a row a data set, and the largest of the 20 eigenvalue errors after averaging over the data sets.
    """
    plain = plain_model(model)
    compile_forms(model)
    compile_forms(plain)
    rows, gaps = [], []
    for index in range(N_DATA_SETS):
        synthetic_data(model, index)
        surrogate = hd.SurrogateModel(dino, model.prior, model.misfit)
        row: dict = {"data set": index, "plain hIPPYlib s": solve_map(plain)[2]}
        solutions, eigenvalues = {}, {}
        for name, candidate in (("PDE", model), ("surrogate", surrogate)):
            x, solver, seconds = solve_map(candidate)
            row[f"{name} converged"] = bool(solver.converged)
            row[f"{name} Newton"] = solver.it
            row[f"{name} s"] = seconds
            solutions[name] = x[hp.PARAMETER]
            eigenvalues[name] = hd.laplace(candidate, x, rank=30).d[:20]
        gap = np.abs(eigenvalues["surrogate"] / eigenvalues["PDE"] - 1)
        gaps.append(gap)
        row["MAP distance"] = relative_distance(model.prior, solutions["surrogate"], solutions["PDE"])
        row["eigenvalues mean"], row["eigenvalues max"] = float(gap.mean()), float(gap.max())
        row["speed-up"] = row["PDE s"] / row["surrogate s"]
        print(row, flush=True)
        rows.append(row)
    return rows, float(np.mean(gaps, axis=0).max())


def main(dataset: Path = HERE / "output" / "confusion", output: Path = HERE / "results" / "confusion_map.md") -> None:
    """Train, measure, write the tables."""
    dl.set_log_level(dl.LogLevel.ERROR)
    dl.parameters["form_compiler"]["cpp_optimize_flags"] = "-O3 -march=native"
    data = hd.Dataset.open(dataset)
    dinos, seconds = {}, {}
    for n_train in EPOCHS:
        for formulation in ("l2", "h1"):
            dinos[formulation, n_train], seconds[formulation, n_train] = trained(data, formulation, n_train)
            print(formulation, n_train, dinos[formulation, n_train].evaluate(data), flush=True)
    model = build(hd.sample_communicator(), 64)
    frobenius, floor = dof_frobenius(model, data, dinos)
    errors = []
    for (formulation, n_train), dino in dinos.items():
        e = dino.evaluate(data)
        values = [f"{e[name]:.2%}" for name in METRICS] + [f"{frobenius[formulation, n_train]:.2%}"]
        errors.append([n_train, formulation, *values, EPOCHS[n_train], f"{seconds[formulation, n_train]:.0f} s"])
    truncation = dinos["h1", 1024].evaluate(data)
    rows, worst_eigenvalue = inverse_problems(model, dinos["h1", 1024])
    keys = list(rows[0])
    shown = [[_shown(key, row[key]) for key in keys] for row in rows]
    means = ["mean", *(_shown(key, float(np.mean([row[key] for row in rows]))) for key in keys[1:])]
    text = f"""# Convection-reaction-diffusion, 64 x 64 (dM = 4225, dQ = 50, rM = 100, rQ = 50)

Machine: {processor()}; commands: see `benchmarks/confusion_map.py`.

## Relative errors on {len(data.split("test"))} held-out samples

{table(ERROR_COLUMNS, errors)}

"Full Jacobian" is relative in ‖Γ^-½ J R^-½‖_HS, the mesh-independent norm in which Jacobians act on the prior.
The bases alone leave {truncation["jacobian_truncation"]:.3%} of it, and {truncation["observable_truncation"]:.3%}
of the observable. "dof Frobenius" is the Frobenius norm of the coefficient matrix on {N_FROBENIUS} of the samples,
which weighs rough modes that the prior damps and grows with the mesh: there the bases of rank 100 alone leave
{floor:.2%}.

## Eight synthetic data sets, DINO `h1`, N = 1024; hIPPYlib's `ReducedSpaceNewtonCG` to a relative gradient of 1e-6

{table(keys, [*shown, means])}

"PDE" is the accelerated variational problem, "plain hIPPYlib" the same PDE as hIPPYlib has it, and "speed-up" the
first one's time over the surrogate's. "MAP distance" is ‖m_surrogate - m_PDE‖_M/‖m_PDE‖_M; "eigenvalues" are the
relative errors of the largest 20 of the
Laplace approximation (mean, and largest). Averaged over the data sets, the worst of the 20 is off by
{worst_eigenvalue:.2%}.

One value with reduced Jacobian, single point, float64: {single_point(dinos["h1", 1024]):.3f} ms (median of 2000).
"""
    output.parent.mkdir(exist_ok=True)
    output.write_text(text)
    print(text)


def _shown(key: str, value) -> str:
    if key in ("MAP distance", "eigenvalues mean", "eigenvalues max"):
        return f"{value:.2%}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    typer.run(main)

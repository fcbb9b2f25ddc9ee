"""What the applications share: PDE and surrogate side by side in hIPPYlib's loops, figures, one table.

An application's `run.py` generates and trains, and gives its own numbers and labels to these functions.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import dolfin as dl
import hippylib as hp
import numpy as np
from rich.console import Console
from rich.table import Table

import hippylib_dino as hd
from hippylib_dino import plotting

TRUTH_SEED = 2026  # a stream that the training samples do not use


class Comparison(NamedTuple):
    """MAP and Laplace of one data set by PDE and by surrogate."""

    numbers: dict  # "PDE", "surrogate" and "comparison", each name to number
    fields: dict[str, dl.GenericVector]  # "truth", "PDE MAP", "surrogate MAP"
    deviations: dict[str, dl.GenericVector]  # pointwise, of "prior" and the posteriors "PDE", "surrogate"
    spectra: dict[str, np.ndarray]  # eigenvalues of the Laplace approximations


@contextlib.contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Write the seconds that the block took into `seconds`."""
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def solve_map(model: hp.Model) -> tuple[list, hp.ReducedSpaceNewtonCG, float]:
    """MAP point by hIPPYlib's Newton-CG from the prior mean; the solver; seconds."""
    parameters = hp.ReducedSpaceNewtonCG_ParameterList()
    parameters["rel_tolerance"] = 1e-6
    parameters["abs_tolerance"] = 1e-10
    parameters["max_iter"] = 50
    parameters["print_level"] = -1
    if isinstance(model.problem, hp.TimeDependentPDEVariationalProblem):
        parameters["GN_iter"] = parameters["max_iter"]  # hIPPYlib's full Hessian of these is not right
    solver = hp.ReducedSpaceNewtonCG(model, parameters)
    start = time.perf_counter()
    x = solver.solve([None, model.prior.mean.copy(), None])
    return x, solver, time.perf_counter() - start


def compile_forms(model: hp.Model) -> None:
    """One solve, gradient and Hessian action at the prior mean, so that no timing includes the compilation of forms."""
    x = model.generate_vector()
    x[hp.PARAMETER].axpy(1.0, model.prior.mean)
    model.solveFwd(x[hp.STATE], x)
    model.solveAdj(x[hp.ADJOINT], x)
    model.evalGradientParameter(x, model.generate_vector(hp.PARAMETER))
    model.setPointForHessianEvaluations(x, gauss_newton_approx=False)
    hp.ReducedHessian(model).mult(model.prior.mean, model.generate_vector(hp.PARAMETER))


def synthetic_data(model: hd.JacobianModel, index: int) -> dl.GenericVector:
    """Put noisy observations of a prior sample into the misfit; return the sample."""
    truth = hd.data.draw_parameter(model.prior, TRUTH_SEED, index)
    noise = model.noise_covariance.sample(np.random.default_rng([TRUTH_SEED, index]))
    data = model.evalObservable(truth) + noise
    if model.time_dependent:
        for member, rows in zip(model.misfit.misfits, model.observation.rows, strict=True):
            hd.modeling.set_owned_values(member.d, data[rows])
    else:
        hd.modeling.set_owned_values(model.misfit.d, data)
    return truth


def relative_distance(prior, a: dl.GenericVector, b: dl.GenericVector) -> float:
    """‖a - b‖_M / ‖b‖_M in the mass norm."""
    difference = a.copy()
    difference.axpy(-1.0, b)
    return float(np.sqrt(difference.inner(prior.M * difference) / b.inner(prior.M * b)))


def deviation(posterior: hp.GaussianLRPosterior, prior_variance: dl.GenericVector) -> dl.GenericVector:
    """Pointwise standard deviation of a Laplace posterior."""
    reduction = prior_variance.copy()
    posterior.Hlr.LowRankHinv.get_diagonal(reduction)
    values = hd.modeling.owned_values(prior_variance) - hd.modeling.owned_values(reduction)
    out = prior_variance.copy()
    hd.modeling.set_owned_values(out, np.sqrt(np.maximum(values, 0.0)))
    return out


def compare(model: hd.JacobianModel, dino: hd.DINO) -> Comparison:
    """MAP and Laplace by PDE and surrogate on one synthetic data set."""
    truth = synthetic_data(model, 0)
    compile_forms(model)
    surrogate = hd.SurrogateModel(dino, model.prior, model.misfit)
    numbers, fields, spectra = {}, {"truth": truth}, {}
    prior_variance = model.prior.pointwise_variance(method="Exact")
    deviations = {"prior": prior_variance.copy()}
    hd.modeling.set_owned_values(deviations["prior"], np.sqrt(hd.modeling.owned_values(prior_variance)))
    for name, candidate in (("PDE", model), ("surrogate", surrogate)):
        x, solver, seconds = solve_map(candidate)
        start = time.perf_counter()
        posterior = hd.laplace(candidate, x)
        numbers[name] = {
            "newton_converged": solver.converged or hd.modeling.stopped_by_rounding(candidate, x),
            "newton_iterations": solver.it,
            "cg_iterations": solver.total_cg_iter,
            "map_seconds": seconds,
            "laplace_seconds": time.perf_counter() - start,
            "cost": solver.final_cost,
            "kl_from_prior": float(posterior.klDistanceFromPrior()),
            "truth_error": relative_distance(model.prior, x[hp.PARAMETER], truth),
        }
        fields[f"{name} MAP"] = x[hp.PARAMETER]
        deviations[name] = deviation(posterior, prior_variance)
        spectra[name] = posterior.d
    # a surrogate of lower rank has fewer eigenvalues
    shared = min(len(values) for values in spectra.values())
    spectra = {name: values[:shared] for name, values in spectra.items()}
    # of those below 1 the prior knows more than the data
    leading = slice(0, min(20, max(1, np.count_nonzero(spectra["PDE"] > 1))))
    numbers["comparison"] = {
        "map_distance": relative_distance(model.prior, fields["surrogate MAP"], fields["PDE MAP"]),
        "eigenvalue_error_mean": float(np.mean(np.abs(spectra["surrogate"] / spectra["PDE"] - 1)[leading])),
        "deviation_distance": relative_distance(model.prior, deviations["surrogate"], deviations["PDE"]),
        "map_speedup": numbers["PDE"]["map_seconds"] / numbers["surrogate"]["map_seconds"],
    }
    return Comparison(numbers, fields, deviations, spectra)


def draw_training(output: Path, model: hd.JacobianModel, dataset: hd.Dataset, dino: hd.DINO) -> None:
    """Figures of what was learnt: spectra and modes of the bases, training history, held-out observables."""
    space = model.prior.Vh
    test = dataset.split("test")
    order = hd.modeling.DofOrder(space)
    noise_std = np.sqrt(np.diag(model.noise_covariance.to_dense()))
    predicted = dino.output_basis.decode(dino.latent_map.value(test.x))
    figures = {
        "spectra": plotting.plot_spectra(
            {
                "input, derivative-informed": dino.input_basis.eigenvalues,
                "output, derivative-informed": dino.output_basis.eigenvalues,
            }
        ),
        "modes": plotting.plot_modes(space, order.from_array(dino.input_basis.decoder), range(8)),
        "history": plotting.plot_history(dino.training["history"]),
        "observables": plotting.plot_observables(test.observable, predicted, noise_std),
    }
    for name, figure in figures.items():
        plotting.save(figure, output / f"{name}.png")


def draw_inference(
    output: Path, space: dl.FunctionSpace, comparison: Comparison, *, points: np.ndarray, units: str
) -> None:
    """Figures of MAP point, pointwise deviation and eigenvalues; the fields for ParaView.

    `points` (n, 2) are the sensors, `units` says what the parameter m in `space` is.
    """
    functions = {k: hp.vector2Function(v, space, name=k) for k, v in comparison.fields.items()}
    gap = comparison.fields["surrogate MAP"].copy()
    gap.axpy(-1.0, comparison.fields["PDE MAP"])
    functions["surrogate - PDE"] = hp.vector2Function(gap, space)
    deviations = {k: hp.vector2Function(v, space) for k, v in comparison.deviations.items()}
    figures = {
        "map": plotting.plot_fields(functions, differences=["surrogate - PDE"], points=points, units=units),
        "deviation": plotting.plot_fields(deviations, units="standard deviation of m"),
        "laplace": plotting.plot_eigenvalues(comparison.spectra),
    }
    for name, figure in figures.items():
        plotting.save(figure, output / f"{name}.png")
    plotting.write_xdmf(output / "map.xdmf", functions)
    plotting.write_xdmf(output / "deviation.xdmf", deviations)


def report(output: Path, numbers: dict, title: str) -> None:
    """Write `numbers`, those of a `Comparison` with the "errors" of the DINO, to summary.json; print a table."""
    (output / "summary.json").write_text(json.dumps(numbers, indent=2))
    table = Table(title=f"{title}: PDE and DINO in hIPPYlib's own loops")
    for heading in ("", "PDE", "surrogate"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = (
        ("MAP: seconds", "map_seconds", "{:.2f}"),
        ("MAP: Newton iterations", "newton_iterations", "{}"),
        ("MAP: CG iterations", "cg_iterations", "{}"),
        ("MAP: distance from the truth (mass norm)", "truth_error", "{:.1%}"),
        ("Laplace: seconds", "laplace_seconds", "{:.2f}"),
        ("Laplace: KL divergence from the prior", "kl_from_prior", "{:.2f}"),
    )
    for label, key, form in rows:
        table.add_row(label, *(form.format(numbers[name][key]) for name in ("PDE", "surrogate")))
    table.add_section()
    comparison, errors = numbers["comparison"], numbers["errors"]
    table.add_row("MAP: surrogate against PDE (mass norm)", "", f"{comparison['map_distance']:.2%}")
    table.add_row("MAP: speed-up", "", f"{comparison['map_speedup']:.0f}x")
    table.add_row("Laplace: mean error of up to 20 eigenvalues > 1", "", f"{comparison['eigenvalue_error_mean']:.2%}")
    table.add_row("Laplace: pointwise deviation against PDE", "", f"{comparison['deviation_distance']:.2%}")
    for name, label in (("observable", "observable, of its spread"), ("jacobian", "full Jacobian")):
        table.add_row(f"held-out error of the {label}", "", f"{errors[name]:.2%}")
        table.add_row("  of the map with the mean Jacobian", "", f"{errors[f'{name}_affine']:.2%}")
    Console().print(table)
    print(f"figures, fields and summary.json are in {output}/")

"""The PDE as judge: how near the surrogate's answers are, how well `certify` tells it, what `refine` costs.

    python -m benchmarks.trust maps        # benchmarks/results/trust_maps.md, of the default network
    python -m benchmarks.trust maps --wide # trust_maps_wide.md, of a wide one, trained for a quarter of an hour
    python -m benchmarks.trust certify     # benchmarks/results/trust_certify.md and .png

Both take the datasets benchmarks/output/training_<problem> (1024 samples, ranks of `RANKS`; see
`benchmarks/training_study.py`), and keep the DINOs that they train as benchmarks/output/trust_*.dino.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import dolfin as dl
import hippylib as hp
import matplotlib.pyplot as plt
import numpy as np
import typer

import hippylib_dino as hd
from applications.compiling import compile_for_this_processor
from applications.study import TRUTH_SEED, compile_forms, relative_distance, solve_map
from benchmarks.tables import processor, table, trivial
from hippylib_dino.errors import SolveError
from hippylib_dino.modeling.spaces import DofOrder, set_owned_values
from hippylib_dino.modeling.stationarity import stopped_by_rounding
from hippylib_dino.surrogate.certification import certify, certify_laplace
from hippylib_dino.surrogate.metric import latent_posterior
from hippylib_dino.surrogate.refinement import refine

HERE = Path(__file__).parent
RANKS = {"confusion": (100, 50), "hyperelasticity": (100, 100)}
EPOCHS = {"confusion": 100, "hyperelasticity": 200}  # of the most accurate DINO, of width `WIDTH`
WIDTH = 512
KINDS = ["prior"] * 12 + ["twice the deviation"] * 2 + ["inclusions"] * 2
LEADING = 30
# of different quality, so that distances spread over decades
JUDGED = (("h1", 1024), ("h1", 256), ("h1", 64), ("l2", 1024), ("l2", 128))
N_CERTIFY = 10  # data sets for each

app = typer.Typer(add_completion=False)


def trained(problem: str, formulation: str, n_train: int, ranks: tuple[int, int]) -> hd.DINO:
    """A DINO with the defaults of `hd.train`; kept on disk."""
    return kept(problem, f"{formulation}_{n_train}", ranks, formulation=formulation, n_train=n_train)


def accurate(problem: str, ranks: tuple[int, int]) -> hd.DINO:
    """A wide DINO, trained for long on values and Jacobians of 1024 samples (a quarter of an hour); kept on disk."""
    settings = {"n_train": 1024, "hidden": (WIDTH,) * 3, "epochs": EPOCHS[problem]}
    return kept(problem, "wide", ranks, formulation="h1", **settings)


def kept(problem: str, name: str, ranks: tuple[int, int], **settings) -> hd.DINO:
    path = HERE / "output" / f"trust_{problem}_{name}_{ranks[0]}_{ranks[1]}.dino"
    if not path.exists():
        dataset = hd.Dataset.open(HERE / "output" / f"training_{problem}").truncate(*ranks)
        hd.train(dataset, seed=0, progress=False, **settings).save(path)
    return hd.DINO.load(path)


def truth(model: hd.JacobianModel, kind: str, index: int) -> dl.GenericVector:
    """A prior sample, its deviation from the mean doubled, or two discs of ±1.5 times its size on the mean."""
    mean = model.prior.mean
    m = hd.data.draw_parameter(model.prior, TRUTH_SEED, index)
    m.axpy(-1.0, mean)
    if kind == "twice the deviation":
        m *= 2.0
    elif kind == "inclusions":
        one = m.copy()
        set_owned_values(one, np.ones(one.local_size()))
        size = np.sqrt(m.inner(model.prior.M * m) / one.inner(model.prior.M * one))
        order = DofOrder(model.prior.Vh)
        points, centres = order.coordinates[order.owned, 1:], np.random.default_rng(index).uniform(0.2, 0.8, (2, 2))
        inside = [np.linalg.norm(points - centre, axis=1) < 0.15 for centre in centres]
        set_owned_values(m, 1.5 * size * (inside[0].astype(float) - inside[1]))
    m.axpy(1.0, mean)
    return m


def observe(model: hd.JacobianModel, kind: str, index: int) -> int:
    """Noisy data of a truth; the next index, for a truth at which the PDE has no solution is none."""
    while True:
        try:
            q = model.evalObservable(truth(model, kind, index))
        except SolveError:
            index += 100
            continue
        noise = model.noise_covariance.sample(np.random.default_rng([TRUTH_SEED, index]))
        set_owned_values(model.misfit.d, q + noise)
        return index


def distance(model: hd.JacobianModel, m: dl.GenericVector, exact: list) -> float:
    """‖m - m_MAP‖ in the PDE's Gauss-Newton Hessian at its MAP point."""
    model.setPointForHessianEvaluations(exact, gauss_newton_approx=True)
    difference, image = m - exact[hp.PARAMETER], m.copy()
    hp.ReducedHessian(model).mult(difference, image)
    return float(np.sqrt(difference.inner(image)))


def variance(posterior: hp.GaussianLRPosterior, prior_variance: dl.GenericVector) -> dl.GenericVector:
    """Pointwise, of a Laplace posterior."""
    out, reduction = prior_variance.copy(), prior_variance.copy()
    posterior.Hlr.LowRankHinv.get_diagonal(reduction)
    out.axpy(-1.0, reduction)
    return out


def judge_map(model: hd.JacobianModel, dino: hd.DINO, prior_variance: dl.GenericVector) -> dict:
    """One data set: MAP point, Laplace, certificate, refinement."""
    surrogate = hd.SurrogateModel(dino, model.prior, model.misfit)
    before = model.n_inc_solve
    cold_solution, cold, _ = solve_map(model)
    cold_solves = model.n_inc_solve - before
    solution, solver, _ = solve_map(surrogate)
    m = solution[hp.PARAMETER]
    warm = refine(surrogate, model, solution)
    exact = refine(surrogate, model, cold_solution, rel_tolerance=1e-9)
    certificate = certify(surrogate, model, solution)
    pde = hd.laplace(model, exact, rank=min(60, dino.output_basis.rank))
    own, corrected = latent_posterior(surrogate, m), certify_laplace(surrogate, model, m, k=LEADING)
    gap = lambda d: np.abs(d[:LEADING] / pde.d[:LEADING] - 1)  # noqa: E731
    return {
        "MAP distance": relative_distance(model.prior, m, exact[hp.PARAMETER]),
        "corrected MAP": relative_distance(model.prior, certificate.corrected, exact[hp.PARAMETER]),
        "cost over optimum": certificate.cost.total / exact.cost - 1,
        "eigenvalues mean": float(gap(own.d).mean()),
        "eigenvalues max": float(gap(own.d).max()),
        "corrected eigenvalues": float(gap(corrected.posterior.d).mean()),
        "variance": relative_distance(model.prior, variance(own, prior_variance), variance(pde, prior_variance)),
        "distance": distance(model, m, exact),
        "estimated": certificate.distance,
        "per direction": certificate.relative_distance,
        "trusted": certificate.trusted,
        "cold Newton": cold.it,
        "refine Newton": warm.newton_iterations,
        "cold linearised": cold_solves,
        "refine linearised": warm.n_linearized,
        "converged": bool(
            (cold.converged or stopped_by_rounding(model, cold_solution))
            and (solver.converged or stopped_by_rounding(surrogate, solution))
            and warm.converged
            and exact.converged
        ),
    }


PERCENT = (
    "MAP distance",
    "corrected MAP",
    "cost over optimum",
    "eigenvalues mean",
    "eigenvalues max",
    "corrected eigenvalues",
    "variance",
)


def shown(key: str, value) -> str:
    """A cell of the table."""
    if key in PERCENT:
        return f"{value:.2%}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@app.command()
def maps(
    wide: bool = False, input_rank: int = 0, output_rank: int = 0, problem: str = "", n_data_sets: int = len(KINDS)
) -> None:
    """MAP, Laplace and refinement on 16 data sets of each problem, by the default network or the wide one.

    The other arguments are for trials, which print and write nothing: other ranks, one problem, fewer data sets.
    """
    prepare()
    sections = []
    for name, ranks in RANKS.items():
        if problem and name != problem:
            continue
        ranks = (input_rank or ranks[0], output_rank or ranks[1])
        model = import_module(f"applications.{name}").build(hd.sample_communicator(), 64)
        dino = accurate(name, ranks) if wide else trained(name, "h1", 1024, ranks)
        compile_forms(model)
        prior_variance = model.prior.pointwise_variance(method="Exact")
        rows = []
        for i, kind in enumerate(KINDS[:n_data_sets]):
            index = observe(model, kind, i)
            rows.append({"data set": index, "truth": kind, **judge_map(model, dino, prior_variance)})
            print(rows[-1], flush=True)
        sections.append(section(name, ranks, dino, rows))
        print(sections[-1], flush=True)
    if problem or input_rank or output_rank or n_data_sets < len(KINDS):
        return
    network = f"3 x {WIDTH}, epochs {EPOCHS}" if wide else "`hd.train`'s defaults"
    text = f"""# The PDE as judge: MAP, Laplace and refinement, DINO `h1`, N = 1024, {network}

Machine: {processor()}; command: `python -m benchmarks.trust maps{" --wide" if wide else ""}`.

"MAP distance" is ‖m - m_PDE‖_M/‖m_PDE‖_M of the surrogate's MAP point from the PDE's, "corrected MAP" that of
`Certificate.corrected`; "cost over optimum" the PDE's cost at the surrogate's MAP point over its minimum, less 1.
"eigenvalues" are the relative errors of the leading {LEADING} of the surrogate's Laplace approximation at its own MAP
point, "corrected eigenvalues" their mean after `certify_laplace`; "variance" that of the pointwise posterior variance
in ‖·‖_M. "distance" is ‖m - m_PDE‖_H, "estimated" what `certify` says of it, "per direction" over √n directions.
"Newton" counts steps, "linearised" forward and adjoint solves of Hessian actions, from the prior mean by hIPPYlib's
`ReducedSpaceNewtonCG` ("cold") and by `refine`, to the same gradient, 1e-6 of that at the prior mean.

{chr(10).join(sections)}"""
    (HERE / "results" / f"trust_maps{'_wide' if wide else ''}.md").write_text(text)


def count(rows: list[dict], key: str) -> str:
    """Of how many rows something is true."""
    return f"{sum(row[key] for row in rows)} of {len(rows)}"


def section(name: str, ranks: tuple[int, int], dino: hd.DINO, rows: list[dict]) -> str:
    """The table of one problem, with means."""
    keys = list(rows[0])
    held_out = dino.evaluate(hd.Dataset.open(HERE / "output" / f"training_{name}").truncate(*ranks))
    numbers = [key for key in keys[2:] if key not in ("trusted", "converged")]
    means = {key: float(np.mean([row[key] for row in rows])) for key in numbers}
    last = ["mean", "", *(shown(key, means[key]) if key in means else count(rows, key) for key in keys[2:])]
    most = {key: max(float(row[key]) for row in rows) for key in numbers}
    largest = ["largest", "", *(shown(key, most[key]) if key in most else "" for key in keys[2:])]
    body = [[shown(key, row[key]) for key in keys] for row in rows]
    worst = [max(row[f"refine {w}"] / row[f"cold {w}"] for row in rows) for w in ("Newton", "linearised")]
    errors = ", ".join(
        f"{key.replace('_', ' ')} {held_out[key]:.2%}"
        for key in ("observable", "observable_constant", "observable_affine", "jacobian", "jacobian_affine")
    )
    return f"""## {name}, ranks {ranks}

{table(keys, [*body, last, largest])}

Held-out errors: {errors}; beside them {trivial(held_out)}.
`refine` takes at most {worst[0]:.2f} of the Newton steps and {worst[1]:.2f} of the linearised solves of a cold start.
"""


@app.command(name="certify")
def certify_cases() -> None:
    """Estimated against true distance on 50 cases of the convection-reaction-diffusion problem."""
    prepare()
    model = import_module("applications.confusion").build(hd.sample_communicator(), 64)
    compile_forms(model)
    dinos = {key: trained("confusion", *key, RANKS["confusion"]) for key in JUDGED}
    cases: dict[tuple[str, int], list] = {key: [] for key in JUDGED}
    for i in range(N_CERTIFY):
        observe(model, KINDS[i + 6], i)  # four of the ten off the prior
        exact = None
        for key, dino in dinos.items():
            surrogate = hd.SurrogateModel(dino, model.prior, model.misfit)
            solution, _, _ = solve_map(surrogate)
            exact = exact or refine(surrogate, model, solution, rel_tolerance=1e-9)
            found = certify(surrogate, model, solution)
            true = distance(model, solution[hp.PARAMETER], exact)
            cases[key].append((true, found.distance, true / found.informed_directions**0.5, found.trusted))
            print(i, *key, f"true {true:.4g} estimated {found.distance:.4g} {found.trusted}", flush=True)
    report_cases(cases)


def report_cases(cases: dict[tuple[str, int], list]) -> None:
    """The table, correlation and coverage, and the scatter figure."""
    rows = []
    for (formulation, n_train), found in cases.items():
        true, estimated, relative, trusted = np.array(found).T
        ratio = estimated / true
        spread = [f"{np.median(a):.3g} ({a.min():.3g} .. {a.max():.3g})" for a in (true, relative, ratio)]
        rows.append([f"{formulation}, N = {n_train}", len(found), *spread, f"{int(trusted.sum())}"])
    true, estimated, relative, trusted = np.array([case for found in cases.values() for case in found]).T
    logarithms = np.log10(true), np.log10(estimated)
    correlation = np.corrcoef(*logarithms)[0, 1]
    within = [np.mean(np.abs(logarithms[0] - logarithms[1]) <= np.log10(factor)) for factor in (1.1, 1.5)]
    right = np.mean((relative <= 0.3) == trusted.astype(bool))
    text = f"""# `certify`: estimated against true distance, {len(true)} cases

Convection-reaction-diffusion, 64 x 64; {N_CERTIFY} data sets, four of them with truths off the prior, for each of
{len(cases)} DINOs. Machine: {processor()}; command: `python -m benchmarks.trust certify`.

"True" is ‖m - m_PDE‖ in the PDE's Gauss-Newton Hessian at its MAP point, found by `refine` to a relative gradient of
1e-9. Median (smallest .. largest):

{table(["DINO", "cases", "true distance", "true, per direction", "estimated/true", "trusted"], rows)}

Correlation of the logarithms {correlation:.4f}; within a factor of 1.1: {within[0]:.0%}, of 1.5: {within[1]:.0%}. The
verdict agrees with that of the true distance (per informed direction, threshold 0.3) in {right:.0%} of the cases.
"""
    (HERE / "results" / "trust_certify.md").write_text(text)
    print(text)
    figure, axes = plt.subplots(figsize=(4.5, 4.2), layout="constrained")
    for (formulation, n_train), found in cases.items():
        axes.loglog(*np.array(found).T[:2], "o", ms=4, label=f"{formulation}, N = {n_train}")
    ends = np.array([0.7 * true.min(), 1.4 * true.max()])
    axes.plot(ends, ends, "k", lw=0.8)
    axes.fill_between(ends, ends / 1.5, ends * 1.5, color="k", alpha=0.1, lw=0, label="factor 1.5")
    axes.set(xlabel="true distance, posterior standard deviations", ylabel="estimated by certify")
    axes.legend()
    figure.savefig(HERE / "results" / "trust_certify.png", dpi=150)


def prepare() -> None:
    """Quiet dolfin, fast forms, a place for what is written."""
    compile_for_this_processor()
    for folder in ("output", "results"):
        (HERE / folder).mkdir(exist_ok=True)


if __name__ == "__main__":
    app()

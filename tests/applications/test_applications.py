"""Every application runs whole at smoke size; one that is not listed, or has no run, fails."""

import importlib
import inspect
import json
from pathlib import Path

import dolfin as dl
import pytest

# the script of each; the first script of a user is one file
SCRIPTS = {
    "cdr_3d": "run",
    "confusion": "run",
    "flow_control": "run",
    "heat": "run",
    "hyperelasticity": "run",
    "poisson": "script",
    "reaction_diffusion": "run",
    "semilinear_control": "run",
    "sensor_placement": "run",
}
PICTURES = {"spectra", "modes", "history", "observables", "map", "deviation", "laplace"}
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("forms_of_tests")


def test_every_application_is_listed():
    found = {p.parent.name for p in (ROOT / "applications").glob("*/__init__.py")}
    assert found == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_application_has_build(name):
    import hippylib_dino as hd

    model = importlib.import_module(f"applications.{name}").build(hd.sample_communicator(), mesh_size=6)
    assert isinstance(model, hd.JacobianModel)
    assert model.prior.mean.size() > 0


@pytest.mark.parametrize("name", SCRIPTS)
def test_application_has_a_run(name):
    main = importlib.import_module(f"applications.{name}.{SCRIPTS[name]}").main
    assert {"output", "mesh_size", "n_samples", "epochs"} <= set(inspect.signature(main).parameters)


def test_poisson_script(tmp_path, capsys):
    from applications.poisson.script import main

    main(output=tmp_path / "out", mesh_size=8, n_samples=24, epochs=10)
    printed = capsys.readouterr().out
    assert "PDE: converged True" in printed
    assert "surrogate MAP against PDE MAP" in printed


def _check_results(out, printed, name, more_pictures=()):
    assert "MAP: Newton iterations" in printed
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary) == {"PDE", "surrogate", "comparison", "errors", "seconds", "settings"}
    assert summary["PDE"]["newton_converged"]
    assert summary["surrogate"]["newton_converged"]
    assert set(summary["seconds"]) == {"generate", "train", "infer"}
    assert 0 < summary["errors"]["observable"] < 1
    pictures = {p.stem for p in out.glob("*.png")}
    assert pictures == PICTURES | set(more_pictures)
    for field in ("map", "deviation", *more_pictures):
        assert (out / f"{field}.xdmf").exists()
    assert (out / f"{name}.dino").exists()


def test_demo(run_python, tmp_path):
    """The demo's two steps, from the command line: generation on two ranks, then the rest on one."""
    module, out = "applications.confusion.run", tmp_path / "out"
    options = ["--mesh-size", "16", "--n-samples", "32", "--input-rank", "16", "--epochs", "30"]
    flags = dl.parameters["form_compiler"]["cpp_optimize_flags"]
    code = f"""
import runpy, sys
from applications import compiling
compiling.FLAGS = {flags!r}
sys.argv = {{!r}}
runpy.run_module(sys.argv[0], run_name='__main__')"""
    run_python(code.format([module, "--output", str(out), *options, "--generate-only"]), ranks=2)
    assert not (out / "confusion.dino").exists()
    printed = run_python(code.format([module, "--output", str(out), *options])).stdout
    _check_results(out, printed, "confusion")


@pytest.mark.parametrize(
    ("name", "more_pictures"), [("heat", ()), ("reaction_diffusion", ()), ("hyperelasticity", ("displacement",))]
)
def test_run(tmp_path, capsys, name, more_pictures):
    main = importlib.import_module(f"applications.{name}.run").main
    main(output=tmp_path, mesh_size=16, n_samples=32, input_rank=16, epochs=10)
    _check_results(tmp_path, capsys.readouterr().out, name, more_pictures)


@pytest.mark.parametrize(
    ("name", "mesh_size", "problems"),
    [
        ("flow_control", 8, {"CVaR", "mean-variance"}),
        (
            "semilinear_control",
            12,
            {f"{goal}-{risk}" for goal in ("sinusoidal", "constant") for risk in ("CVaR", "mean-variance")},
        ),
    ],
)
def test_control_run(tmp_path, capsys, name, mesh_size, problems):
    main = importlib.import_module(f"applications.{name}.run").main
    main(
        output=tmp_path, mesh_size=mesh_size, n_samples=24, input_rank=4, output_rank=8, epochs=5, n_ensemble=3,
        polish=2,
    )  # fmt: skip
    assert "held-out errors: state" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary) == {"errors", "seconds", "settings", "problems"}
    assert set(summary["seconds"]) == {"generate", "train", "optimise"}
    assert 0 < summary["errors"]["control_jacobian"] < 1.5
    assert len(summary["problems"]) == len(problems)
    for found in summary["problems"].values():
        assert set(found["risk"]) == {"z = 0", "z*", "polished"}
        assert found["outside"] is None
    kinds = {"control", "quantity", "convergence", "state"}
    assert {p.stem for p in tmp_path.glob("*.png")} == {f"{problem}-{kind}" for problem in problems for kind in kinds}
    assert {p.stem for p in tmp_path.glob("*.xdmf")} == {f"{problem}-state" for problem in problems}
    assert (tmp_path / f"{name}.dino").exists()


def test_flow_is_steady_and_as_imposed():
    """No mass is lost, what is imposed by Nitsche's method is there, and blowing is out of the body."""
    import hippylib as hp
    import numpy as np

    import hippylib_dino as hd
    from applications.flow_control.model import BODY, INFLOW_SIDE, boundary_measure, build

    model = build(hd.sample_communicator(), mesh_size=16)
    pde, mesh = model.problem, model.prior.Vh.mesh()
    pde.control = np.full(18, 0.5)
    u = hp.vector2Function(model.solveState(model.prior.mean), pde.Vh[hp.STATE])
    v, _ = dl.split(u)
    n, ds = dl.FacetNormal(mesh), boundary_measure(mesh)
    inflow, blown = (dl.assemble(-dl.inner(v, n) * ds(part)) for part in (INFLOW_SIDE, BODY))
    assert inflow == pytest.approx(1.0, abs=5e-3)
    # partition of unity but for the first and last spline, on two edges of length 0.2
    assert 0.5 * 0.7 * 0.4 < blown < 0.5 * 0.4
    assert dl.assemble(dl.inner(v, n) * dl.ds(domain=mesh)) == pytest.approx(0.0, abs=1e-3)
    assert dl.assemble(dl.div(v) ** 2 * dl.dx) < 1e-2


@pytest.mark.parametrize(("name", "mesh_size"), [("sensor_placement", 16), ("cdr_3d", 6)])
def test_design(tmp_path, capsys, name, mesh_size):
    main = importlib.import_module(f"applications.{name}.run").main
    sizes = {"n_sensors": 3, "n_draws": 4, "n_random": 6, "n_rivals": 2, "n_pde_draws": 2}
    main(output=tmp_path, mesh_size=mesh_size, n_samples=32, input_rank=16, output_rank=16, epochs=10, **sizes)
    assert "the first design beats" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(set(summary["sensors"])) == 3
    assert summary["information_gain"]["surrogate"] >= summary["best_random"] > 0
    assert 0 < summary["relative_error"] < 0.5
    pictures = {p.stem for p in tmp_path.glob("*.png")}
    assert pictures == {"design", "gain", "random", *(["deviation"] if name == "sensor_placement" else [])}
    assert (tmp_path / "deviation.xdmf").exists()
    assert (tmp_path / "sensors.dino").exists()


def test_design_of_readings_in_time(tmp_path, capsys):
    import hippylib_dino as hd
    from applications.heat import build
    from applications.heat.design import main

    model = build(hd.sample_communicator(), mesh_size=8)
    dataset = hd.generate(model, tmp_path / "data", n_samples=16, input_rank=12, output_rank=12, progress=False)
    hd.train(dataset, epochs=5, hidden=(8,), progress=False).save(tmp_path / "heat.dino")
    main(output=tmp_path, mesh_size=8, n_draws=4, n_pde_draws=2)
    summary = json.loads((tmp_path / "design.json").read_text())
    assert len(summary["readings"]) == 6
    assert len(summary["places read at all times"]) == 2
    assert summary["information_gain"] > 0.95 * summary["their information_gain"] > 0
    assert (tmp_path / "design.png").stat().st_size > 10_000
    assert "read at [" in capsys.readouterr().out

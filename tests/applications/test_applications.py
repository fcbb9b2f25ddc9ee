"""Every application runs whole at smoke size; one that is not listed fails."""

import json
from pathlib import Path

import pytest

APPLICATIONS = ("confusion", "hyperelasticity", "poisson")
ROOT = Path(__file__).parents[2]


def test_every_application_is_listed():
    found = {p.parent.name for p in (ROOT / "applications").glob("*/__init__.py")}
    assert found == set(APPLICATIONS)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_application_has_build(name):
    import importlib

    import hippylib_dino as hd

    model = importlib.import_module(f"applications.{name}").build(hd.sample_communicator(), mesh_size=16)
    assert isinstance(model, hd.JacobianModel)


def test_poisson_script(tmp_path, capsys):
    from applications.poisson.script import main

    main(output=tmp_path / "out", mesh_size=8, n_samples=24, epochs=10)
    printed = capsys.readouterr().out
    assert "PDE: converged True" in printed
    assert "surrogate MAP against PDE MAP" in printed


def test_demo(run_python, tmp_path):
    """The demo's two steps: generation on two ranks, then the rest on one."""
    out = tmp_path / "out"
    settings = f"output=Path({str(out)!r}), mesh_size=16, n_samples=32, input_rank=16, epochs=30"
    code = "from pathlib import Path\nfrom applications.confusion.run import main\nmain({}, generate_only={})"
    run_python(code.format(settings, True), ranks=2)
    printed = run_python(code.format(settings, False)).stdout
    assert "MAP: Newton iterations" in printed
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary) == {"PDE", "surrogate", "comparison", "errors", "seconds", "settings"}
    assert summary["PDE"]["newton_converged"]
    assert 0 < summary["errors"]["observable"] < 1
    pictures = {p.stem for p in out.glob("*.png")}
    assert pictures == {"spectra", "modes", "history", "observables", "map", "deviation", "laplace"}
    assert (out / "map.xdmf").exists()
    assert (out / "deviation.xdmf").exists()
    assert (out / "confusion.dino").exists()

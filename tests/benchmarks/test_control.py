"""The benchmark of optimization under uncertainty runs whole at smoke size."""

import dataclasses

import numpy as np
import pytest
import typer

import hippylib_dino as hd
from benchmarks import control

FULL = control.CASES["semilinear_control"]

pytestmark = pytest.mark.usefixtures("forms_of_tests")


def one_quantity(model):
    return {"1": hd.ouu.tracking(model.problem.Vh, 1.0)}


@pytest.fixture
def case(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "OUTPUT", tmp_path)
    case = dataclasses.replace(FULL, quantities=one_quantity)
    monkeypatch.setitem(control.CASES, "semilinear_control", case)
    return case


def test_smoke_run(case, tmp_path, capsys):
    control.generate(small=True)
    control.train(small=True)
    control.reference(small=True)
    control.measure(small=True)
    text = (tmp_path / "control_small.md").read_text()
    assert text.splitlines()[2] == "**A smoke run, which says nothing.**"
    printed = capsys.readouterr().out
    assert text in printed
    assert "1, CVaR 0.95: " in printed
    tables = text.split("\n## ")[1:]
    assert [len([line for line in part.splitlines() if line.startswith("| ")]) for part in tables] == [3] * 5
    assert (tmp_path / "control_small.png").stat().st_size > 1000
    # what the table says is what the PDE gives at these controls
    size, model = case.small, control.prepare(case, case.small)
    dinos = {f: hd.DINO.load(size.path(f"_{f}.dino")) for f in control.FORMULATIONS}
    form = one_quantity(model)["1"]
    again = control.solve(case, model, form, dinos, size, "1", 0)[0]
    q = hd.ouu.PDEEnsemble.draw(model, form, size.n_samples, seed=control.COMMON).quantity(again.runs["h1"].z)
    np.testing.assert_allclose(again.quantities["h1"], q, rtol=1e-5)
    assert f"| {hd.ouu.CVaR(0.95, 1e-9).value(q):.5f} (" in tables[1]
    assert again.runs["PDE"].value <= again.runs["PDE"].history[0].value
    least = min((again.quantities[name] for name in again.runs), key=hd.ouu.CVaR(0.95, 1e-9).value)
    worse = dataclasses.replace(again, quantities={**again.quantities, "zero": 2 * least})
    assert worse.excess("zero") == pytest.approx(1.0)


def test_unknown_problem_is_named():
    with pytest.raises(typer.BadParameter, match="--problem: expected one of"):
        control.chosen("heat", small=True)


def test_the_flow_has_its_own_risks():
    case, size = control.chosen("flow_control", small=False)
    assert case.bounds == (-2.0, 2.0)
    assert set(case.risks) == {"CVaR 0.95", "mean + 1 variance"}
    assert size.name == "control_flow"

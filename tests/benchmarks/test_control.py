"""The benchmark of optimization under uncertainty runs whole at smoke size."""

import dataclasses

import numpy as np
import pytest

import hippylib_dino as hd
from benchmarks import control


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "OUTPUT", tmp_path)
    monkeypatch.setattr(control, "TARGETS", {"1": "1.0"})
    return tmp_path


def test_smoke_run(folder, capsys):
    control.generate(small=True)
    control.train(small=True)
    control.measure(small=True)
    text = (folder / "control_small.md").read_text()
    assert text.splitlines()[2] == "**A smoke run, which says nothing.**"
    assert text in capsys.readouterr().out
    tables = text.split("\n## ")[1:]
    assert [len([line for line in part.splitlines() if line.startswith("| ")]) for part in tables] == [3, 3, 3, 3]
    assert (folder / "control_small.png").stat().st_size > 1000
    # what the table says is what the PDE gives at these controls
    size = control.SMALL
    again = control.solve(
        control.prepare(size), {f: hd.DINO.load(size.path(f"_{f}.dino")) for f in control.FORMULATIONS}, size, "1"
    )[0]
    ensemble = hd.ouu.PDEEnsemble.draw(
        model := control.prepare(size), hd.ouu.tracking(model.problem.Vh, 1.0), size.n_samples, seed=control.COMMON
    )
    q = ensemble.quantity(again.runs["h1"].z)
    np.testing.assert_allclose(again.quantities["h1"], q, rtol=1e-5)
    assert f"| {control.EXACT['CVaR 0.95'].value(q):.5f} (" in tables[1]
    assert again.runs["PDE"].value <= again.runs["PDE"].history[0].value
    worse = dataclasses.replace(again, quantities={**again.quantities, "h1": 2 * again.quantities["PDE"]})
    assert worse.excess("h1") == pytest.approx(1.0)

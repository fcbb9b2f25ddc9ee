"""What the figures of optimization under uncertainty show, and what is refused."""

import numpy as np
import pytest

from hippylib_dino import plotting
from hippylib_dino.errors import InputError
from hippylib_dino.ouu import CVaR, Expectation, L2Penalty, Objective, minimize
from tests.ouu.ensembles import Analytic


def test_controls_side_by_side_with_their_bounds():
    one, two = np.array([1.0, -2.0, 0.5]), np.array([0.0, 3.0, 1.0])
    (axes,) = plotting.plot_controls({"surrogate": one, "PDE": two}, bounds=(-4, 4), units="W").axes
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], [*one, *two])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["surrogate", "PDE"]
    assert [set(line.get_ydata()) for line in axes.lines[:2]] == [{-4}, {4}]
    assert axes.get_ylabel() == "value (W)"


def test_distribution_before_and_after(rng):
    before, after = rng.exponential(size=200) + 1, 0.3 * rng.exponential(size=300)
    figure = plotting.plot_quantity({"before": before, "after": after}, risk=CVaR(0.9, 1e-6), units="J")
    density, exceedance = figure.axes
    for outline in density.patches[1::2]:
        assert outline.get_xy()[1:-1:2, 1].sum() == pytest.approx(1.0)  # shares
    assert density.get_legend().get_texts()[0].get_text() == f"before, CVaR {CVaR(0.9, 1e-6).value(before):.4g}"
    x, share = exceedance.lines[0].get_data()
    np.testing.assert_allclose(share[np.searchsorted(x, np.median(before))], 0.5, atol=0.01)
    marks = [line.get_xdata()[0] for line in density.lines]
    np.testing.assert_allclose(marks, [CVaR(0.9, 1e-6).value(q) for q in (before, after)])
    assert plotting.plot_quantity({"one": before}, log=True).axes[0].get_xscale() == "log"
    assert plotting.plot_quantity({"constant": np.ones(4)}).axes[0].get_xlabel() == "quantity of interest"


def test_convergence_of_runs(tmp_path):
    run = minimize(Objective(Analytic(), Expectation(), [L2Penalty(0.1)]), np.ones(3), progress=False)
    figure = plotting.plot_convergence({"PDE": run})
    values, gradients = figure.axes
    np.testing.assert_allclose(values.lines[0].get_ydata(), [i.value for i in run.history])
    np.testing.assert_allclose(gradients.lines[0].get_xdata(), [i.n_evaluations for i in run.history])
    plotting.save(figure, tmp_path / "convergence.png")
    assert (tmp_path / "convergence.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plotting.plot_controls({}), "controls: expected a dict"),
        (lambda: plotting.plot_controls({"a": np.ones(2), "b": np.ones(3)}), "controls: expected arrays"),
        (lambda: plotting.plot_controls({"a": np.ones((2, 2))}), "controls: expected arrays"),
        (lambda: plotting.plot_quantity([1.0]), "quantities: expected a dict"),
        (lambda: plotting.plot_quantity({"a": np.array([np.nan])}), "quantities: expected finite samples"),
        (lambda: plotting.plot_quantity({"a": np.zeros(3)}, log=True), "quantities: expected positive samples"),
        (lambda: plotting.plot_convergence({}), "runs: expected a dict"),
    ],
)
def test_bad_input(draw, message):
    with pytest.raises(InputError, match=message):
        draw()

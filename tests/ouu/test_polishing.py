"""The PDE's optimum by few evaluations of it: with good surrogates, with wrong ones, within bounds, resumed."""

import numpy as np
import pytest

from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.ouu import CorrectedEnsemble, CVaR, Expectation, L2Penalty, MeanVariance, Objective, minimize, polish
from tests.ouu.ensembles import Analytic

RISKS = {"mean": Expectation(), "mean-variance": MeanVariance(0.5), "cvar": CVaR(0.8, 0.05)}
BOUNDS = {"free": None, "bounded": (-0.2, 0.6)}


class Exact(Analytic):
    """`Analytic` and a slope that differs by sample: its CVaR is least away from zero."""

    def __init__(self, n=40, share=0.0):
        super().__init__(n)
        other = Analytic(n, seed=1)
        self.a, self.b = self.a + share * other.a, self.b + share * other.b
        self.c = other.b + np.array([0.8, -0.5, 0.3]) * (1 + share)

    def quantity_and_jacobian(self, z):
        q, jacobian = super().quantity_and_jacobian(z)
        return q + self.c @ z, jacobian + self.c


class Off(Exact):
    """Wrong by a share of its coefficients."""

    def __init__(self, share):
        super().__init__(share=share)


class Counted(Exact):
    """Counts what is asked of it; at the evaluation `broken` it raises `error`."""

    def __init__(self, broken=None, error=KeyboardInterrupt):
        super().__init__()
        self.n_calls, self.broken, self.error = 0, broken, error

    def quantity_and_jacobian(self, z):
        self.n_calls += 1
        if self.n_calls == self.broken:
            raise self.error("no")
        return super().quantity_and_jacobian(z)


def objective(ensemble, risk="mean"):
    return Objective(ensemble, RISKS[risk], [L2Penalty(0.1)])


def optimum(ensemble, risk="mean", bounds=None):
    return minimize(objective(ensemble, risk), np.zeros(3), bounds=bounds, tolerance=1e-8, progress=False)


@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("risk", RISKS)
def test_few_evaluations_reach_the_optimum(risk, bounds):
    pde, surrogate = Counted(), Off(0.15)
    exact, rough = optimum(Exact(), risk, bounds), optimum(surrogate, risk, bounds)
    found = polish(objective(pde, risk), surrogate, rough.z, bounds=bounds, tolerance=1e-9, progress=False)
    start = found.history[0].value
    assert start - exact.value > 3e-4 * exact.value  # or there would be nothing to polish
    assert abs(found.value - exact.value) < 2e-3 * (start - exact.value)
    assert found.gradient_norm < 0.05 * found.history[0].gradient_norm
    assert found.n_evaluations == pde.n_calls
    assert found.risk == pytest.approx(RISKS[risk].value(Exact().quantity(found.z)), rel=1e-12)


def test_without_slopes_it_ends_at_the_wrong_control(monkeypatch):
    """Negative control: corrected values alone leave the surrogate's optimum where it is."""
    exact, rough = optimum(Exact()), optimum(Off(0.15))
    found = polish(objective(Exact()), Off(0.15), rough.z, tolerance=1e-9, max_evaluations=9, progress=False)
    assert found.converged
    assert np.abs(found.z - exact.z).max() < 1e-3

    def shifted(self, surrogate, z, q, jacobian):
        self._surrogate, self._z, self.n, self.n_control = surrogate, z, surrogate.n, surrogate.n_control
        self._shift, self._slope = q - surrogate.quantity(z), np.zeros_like(jacobian)

    monkeypatch.setattr(CorrectedEnsemble, "__init__", shifted)
    wrong = polish(objective(Exact()), Off(0.15), rough.z, tolerance=1e-9, max_evaluations=9, progress=False)
    assert np.abs(wrong.z - exact.z).max() > 3e-2


@pytest.mark.parametrize("share", [1.0, -2.0])
@pytest.mark.parametrize("risk", ["mean", "mean-variance"])
def test_a_wrong_surrogate_only_takes_longer(risk, share):
    exact, rough = optimum(Exact(), risk), optimum(Off(share), risk)
    found = polish(objective(Exact(), risk), Off(share), rough.z, max_evaluations=60, progress=False)
    assert found.history[0].value > 1.02 * exact.value
    assert found.value < 1.002 * exact.value
    assert found.n_evaluations >= 4


def test_a_wrong_surrogate_of_a_tail_too():
    exact, rough = optimum(Exact(), "cvar"), optimum(Off(1.0), "cvar")
    found = polish(objective(Exact(), "cvar"), Off(1.0), rough.z, max_evaluations=60, progress=False)
    assert found.history[0].value > 1.2 * exact.value
    assert found.value < 1.002 * exact.value


def test_evaluations_that_run_out_are_no_convergence():
    rough = optimum(Off(1.0))
    found = polish(objective(Exact()), Off(1.0), rough.z, max_evaluations=2, progress=False)
    assert not found.converged
    assert found.message == "max_evaluations were used"
    assert found.n_evaluations == 2


def test_a_control_where_the_pde_fails_is_not_better(tmp_path):
    """The region shrinks, and a resumed run remembers the failure."""
    exact, rough, options = optimum(Exact()), optimum(Off(0.3)), {"tolerance": 1e-7, "progress": False}
    pde = Counted(broken=2, error=SolveError)
    found = polish(objective(pde), Off(0.3), rough.z, path=tmp_path / "a", max_evaluations=12, **options)
    assert len(found.history) < found.n_evaluations
    assert np.abs(found.z - exact.z).max() < 1e-2
    with pytest.raises(SolveError, match="no"):
        polish(objective(Counted(broken=1, error=SolveError)), Off(0.3), rough.z, **options)
    again = Counted()
    found = polish(
        objective(again), Off(0.3), rough.z, path=tmp_path / "a", resume=True, max_evaluations=12, **options
    )  # fmt: skip
    assert again.n_calls == 1  # the last of the file, to compare
    polish(
        objective(Counted(broken=2, error=SolveError)),
        Off(0.3),
        rough.z,
        path=tmp_path / "b",
        max_evaluations=2,
        **options,
    )
    fails = Counted(broken=1, error=SolveError)
    polish(objective(fails), Off(0.3), rough.z, path=tmp_path / "b", resume=True, max_evaluations=2, **options)
    assert fails.n_calls == 1


def test_a_surrogate_that_fails_far_away_is_kept_near():
    class Cliff(Off):
        def quantity_and_jacobian(self, z):
            q, jacobian = super().quantity_and_jacobian(z)
            return (q if np.abs(z - self.here).max() < 0.05 else q * np.nan), jacobian

    exact, rough, surrogate = optimum(Exact()), optimum(Off(0.3)), Cliff(0.3)
    surrogate.here = rough.z
    found = polish(objective(Exact()), surrogate, rough.z, max_evaluations=3, progress=False)
    assert exact.value < found.value < found.history[0].value
    surrogate.here = rough.z + 1.0
    with pytest.raises(SolveError, match="not finite"):
        polish(objective(Exact()), surrogate, rough.z, progress=False)


def test_the_start_stays_what_it_was():
    rough = optimum(Off(0.3)).z.copy()
    kept = rough.copy()
    found = polish(objective(Exact()), Off(0.3), rough, progress=False)
    rough += 1
    np.testing.assert_array_equal(found.history[0].z, kept)


def test_an_exact_surrogate_ends_at_once():
    rough = optimum(Exact())
    found = polish(objective(Exact()), Exact(), rough.z, progress=False)
    assert found.converged
    assert found.n_evaluations == 1
    assert found.n_iterations == 0


def test_corrected_to_first_order():
    pde, surrogate, rng = Exact(), Off(0.3), np.random.default_rng(0)
    z, direction = rng.standard_normal(3), rng.standard_normal(3)
    ensemble = CorrectedEnsemble(surrogate, z, *pde.quantity_and_jacobian(z))
    for mine, theirs in zip(ensemble.quantity_and_jacobian(z), pde.quantity_and_jacobian(z), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)
    errors = [np.abs(ensemble.quantity(z + h * direction) - pde.quantity(z + h * direction)).max() for h in (0.1, 0.05)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.3)
    _, jacobian = ensemble.quantity_and_jacobian(z + direction)
    h = 1e-6
    ahead, behind = (ensemble.quantity(z + direction + s * h * direction) for s in (1, -1))
    np.testing.assert_allclose(jacobian @ direction, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-6)
    step = ensemble.quantity_and_jacobian(z + direction + h * direction)[1]
    np.testing.assert_allclose(ensemble.hessian_actions(z + direction, direction), (step - jacobian) / h, atol=1e-3)


def test_resumed_where_it_was_killed(tmp_path):
    rough, options = optimum(Off(0.3)), {"tolerance": 1e-12, "progress": False}
    whole = polish(objective(Exact()), Off(0.3), rough.z, **options)
    assert whole.n_evaluations == 5
    with pytest.raises(KeyboardInterrupt):
        polish(objective(Counted(broken=4)), Off(0.3), rough.z, path=tmp_path / "a", **options)
    with pytest.raises(InputError, match=r"path: .* exists; pass resume=True"):
        polish(objective(Exact()), Off(0.3), rough.z, path=tmp_path / "a", **options)
    pde = Counted()
    found = polish(objective(pde), Off(0.3), rough.z, path=tmp_path / "a", resume=True, **options)
    np.testing.assert_array_equal(found.z, whole.z)
    assert pde.n_calls == 3  # the third once more, to compare, and two new ones


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surrogate": Exact(n=7)}, "surrogate: expected 40 samples and 3 controls, .* got 7"),
        ({"objective": Objective(Exact(), RISKS["cvar"], joint=True)}, "objective: expected one of the control"),
        ({"max_evaluations": 0}, "max_evaluations: expected at least 1"),
        ({"tolerance": 0.0}, "tolerance: expected a number > 0"),
        ({"start": np.full(3, 9.0)}, "start: outside of the bounds at 3 of 3"),
        ({"bounds": (1.0, -1.0)}, "bounds: inverted"),
        ({"start": np.zeros(4)}, r"start: expected shape \(3,\)"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"objective": objective(Exact()), "surrogate": Exact(), "start": np.zeros(3), "bounds": (-2, 2)}
    arguments |= change
    with pytest.raises(InputError, match=message):
        polish(**arguments, progress=False)


def test_a_quantity_that_is_not_finite_is_an_error():
    class Broken(Exact):
        def quantity_and_jacobian(self, z):
            q, jacobian = super().quantity_and_jacobian(z)
            return q * np.nan, jacobian

    with pytest.raises(SolveError, match="not finite at 40 of 40"):
        polish(objective(Broken()), Exact(), np.zeros(3), progress=False)

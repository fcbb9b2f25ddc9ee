import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.modeling.derivative_check import derivative_errors, remedies
from tests import control_problems


def point_and_direction(model):
    m, v = (hd.data.draw_parameter(model.prior, (0, 9), i) for i in (0, 1))
    v.axpy(-1.0, model.prior.mean)
    return m, v


@pytest.mark.parametrize("name", ["poisson", "vector", "accelerated_mixed", "state", "heat", "reaction"])
def test_right_jacobians_pass_with_two_solves(models, name):
    model = models[name]
    found = derivative_errors(model, *point_and_direction(model))
    assert list(found) == ["parameter"]
    assert found["parameter"].error < 1e-5
    assert found["parameter"].doubt == 0.0
    assert found["parameter"].change > 0.0


@pytest.mark.parametrize("name", ["poisson", "heat", "state"])
@pytest.mark.parametrize("factor", [1.001, -1.0])
def test_wrong_jacobians_are_measured(models, name, factor, monkeypatch):
    """By a tenth of a per cent, and with the wrong sign."""
    model = models[name]
    linearize_at = model.linearize_at

    class Wrong:
        def __init__(self, *point):
            self._right = linearize_at(*point)

        def mult_local(self, directions):
            return factor * self._right.mult_local(directions)

    monkeypatch.setattr(model, "linearize_at", Wrong)
    found = derivative_errors(model, *point_and_direction(model))["parameter"]
    assert found.error == pytest.approx(abs(factor - 1.0), rel=0.05)
    assert found.doubt < 1e-2 * found.error


def test_both_variables_of_a_control_problem(monkeypatch):
    model = control_problems.build("bent", hd.sample_communicator(), observable="points")
    model.problem.control = np.array([0.7, -0.4, 0.9])
    along = np.array([1.0, 0.5, -1.0])
    right = derivative_errors(model, *point_and_direction(model), along)
    assert {name: each.error < 1e-5 for name, each in right.items()} == {"parameter": True, "control": True}
    np.testing.assert_array_equal(model.problem.control_to_array(model.problem.control), [0.7, -0.4, 0.9])
    control_jacobian = model.control_jacobian

    class Wrong:
        def mult_local(self, directions):
            return 1.01 * control_jacobian().mult_local(directions)

    monkeypatch.setattr(model, "control_jacobian", Wrong)
    wrong = derivative_errors(model, *point_and_direction(model), along)
    assert wrong["parameter"] == right["parameter"]
    assert wrong["control"].error == pytest.approx(0.01, rel=0.05)


def test_observable_that_is_not_differentiable_is_doubted(models, monkeypatch):
    """As where the state is not unique: each solve gives another."""
    model, rng = models["poisson"], np.random.default_rng(0)
    observe = model.observe_local
    monkeypatch.setattr(model, "observe_local", lambda u: observe(u) + rng.standard_normal())
    found = derivative_errors(model, *point_and_direction(model))["parameter"]
    assert found.error > 0.1
    assert found.doubt > 0.1


def test_remedies_are_those_of_the_problem(models):
    plain, fast = remedies(models["vector"]), remedies(models["accelerated_vector"])
    assert "hd.AcceleratedVariationalProblem" in plain
    assert "absolute residual" in plain
    assert "absolute residual" not in fast
    assert "absolute residual" not in remedies(models["poisson"])
    assert '["absolute_tolerance"]' in remedies(models["reaction"])
    assert '["absolute_tolerance"]' not in remedies(models["heat"])
    assert "observable_rates" in fast

import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.modeling import decrease_left, stopped_by_rounding
from tests.problems import observe_truth, solve_map


@pytest.fixture(params=["linear", "linear surrogate", "confusion surrogate"])
def case(request, maps):
    """A model with data, and its MAP point."""
    model = maps[request.param]
    observe_truth(maps[request.param.removesuffix(" surrogate")])
    return model, solve_map(model)[0]


def moved(model, x, distance):
    """[u, m, p] off by so many prior standard deviations along a prior sample, with its state."""
    step = hd.data.draw_parameter(model.prior, 21, 0)
    step.axpy(-1.0, model.prior.mean)
    m, image = x[hp.PARAMETER].copy(), step.copy()
    model.prior.R.mult(step, image)
    m.axpy(distance / np.sqrt(step.inner(image)), step)
    out = [model.generate_vector(hp.STATE), m, None]
    model.solveFwd(out[hp.STATE], out)
    return out


def test_bounds_the_decrease_that_is_left(case):
    """Of a Gaussian posterior for any distance; near a MAP point of any."""
    model, x = case
    least = model.cost(x)[0]
    for distance in (1e-1, 1e-2):
        there = moved(model, x, distance)
        left = decrease_left(model, there)
        assert model.cost(there)[0] - least <= left * (1 + 1e-3)
        assert not stopped_by_rounding(model, there)


def test_an_end_by_rounding_is_told_from_a_failure(case):
    """No processor reaches a gradient of 1e-16; hIPPYlib says that it did not converge."""
    model, x = case
    assert stopped_by_rounding(model, x)
    there, solver = solve_map(model, rel_tolerance=1e-16, abs_tolerance=0.0, gdm_tolerance=0.0, max_iter=20)
    assert not solver.converged
    assert stopped_by_rounding(model, there)


def test_too_few_iterations_are_a_failure(maps):
    observe_truth(maps["confusion"])
    surrogate = maps["confusion surrogate"]
    x, solver = solve_map(surrogate, max_iter=2)
    assert not solver.converged
    assert not stopped_by_rounding(surrogate, x)

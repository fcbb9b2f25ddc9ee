import dolfin as dl
import hippylib as hp
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError
from hippylib_dino.modeling.form_splitting import ufl
from hippylib_dino.modeling.linearity import check_linear
from tests import control_problems, time_dependent_problems

REFUSED = r"is_fwd_linear: expected False for this varf_handler, got True: its form is not linear in the state"


def jump(u, m, p):
    """Constant on either side of a threshold of u: UFL's derivative of it vanishes."""
    return (u * p + dl.conditional(dl.gt(u, 1.0), m, 0.0) * p) * dl.dx


NONLINEAR = {
    "cubic": lambda u, m, p: (m * u * p + u**3 * p) * dl.dx,
    "jump": jump,
    "kink": lambda u, m, p: (m * u * p + abs(u) * p) * dl.dx,
    "on a boundary": lambda u, m, p: m * u * p * dl.dx + u**2 * p * dl.ds(1),
    "from an energy": lambda u, m, p: dl.derivative((m * u**2 + u**4) * dl.dx, u, p),
}
LINEAR = {
    "affine": lambda u, m, p: (dl.exp(m) * u * p - m**2 * p) * dl.dx,
    "jump in space": lambda u, m, p: (
        dl.conditional(dl.gt(ufl.SpatialCoordinate(u.ufl_domain())[0], 0.5), m, 1.0) * u * p * dl.dx
    ),
    "jump in m": lambda u, m, p: dl.conditional(dl.gt(m, 0.5), 2.0, 1.0) * u * p * dl.dx - p * dl.dx,
    "from an energy": lambda u, m, p: dl.derivative(m * u**2 * dl.dx, u, p),
}


@pytest.fixture(scope="module")
def space():
    return dl.FunctionSpace(dl.UnitSquareMesh(hd.sample_communicator(), 2, 2), "Lagrange", 1)


@pytest.mark.parametrize("name", NONLINEAR)
def test_form_that_is_not_linear_is_refused_when_the_problem_is_made(space, name):
    Vh, form = [space] * 3, NONLINEAR[name]
    with pytest.raises(InputError, match=REFUSED):
        hd.AcceleratedVariationalProblem(Vh, form, [], [], is_fwd_linear=True)
    with pytest.raises(InputError, match=REFUSED):
        hd.AcceleratedVariationalProblem.from_problem(hp.PDEVariationalProblem(Vh, form, [], [], is_fwd_linear=True))
    hd.AcceleratedVariationalProblem(Vh, form, [], [], is_fwd_linear=False)


@pytest.mark.parametrize("name", LINEAR)
def test_form_that_is_linear_passes(space, name):
    hd.AcceleratedVariationalProblem([space] * 3, LINEAR[name], [], [], is_fwd_linear=True)


def test_linear_in_the_state_is_enough(space):
    """Neither parameter nor control need enter linearly."""
    u, m = dl.Function(space), dl.Function(space)
    p = dl.TestFunction(space)
    form = dl.exp(m) * u * p * dl.dx
    check_linear(form, u)
    check_linear(form - dl.sin(m) * p * dl.dx, u)
    with pytest.raises(InputError, match=REFUSED):
        check_linear(form, m)


def test_later_changes_are_checked_too(space):
    pde = hd.AcceleratedVariationalProblem([space] * 3, NONLINEAR["cubic"], [], [], is_fwd_linear=False)
    pde.is_fwd_linear = True
    with pytest.raises(InputError, match=REFUSED):
        pde.solveFwd(pde.generate_state(), [pde.generate_state(), pde.generate_parameter(), None])


def test_control_problem_is_refused():
    with pytest.raises(InputError, match=REFUSED):
        control_problems.build("bent", hd.sample_communicator(), linear=True)


def test_plain_problem_is_refused_by_the_model(models):
    model = models["vector"]
    pde = hp.PDEVariationalProblem(
        model.problem.Vh, model.problem.varf_handler, model.problem.bc, model.problem.bc0, is_fwd_linear=True
    )
    with pytest.raises(InputError, match=REFUSED):
        hd.JacobianModel(pde, model.prior, model.misfit)


def test_time_dependent_problem_is_refused_by_the_model():
    problem, prior, misfit = time_dependent_problems.reaction(hd.sample_communicator())
    problem.is_fwd_linear = True
    with pytest.raises(InputError, match=REFUSED):
        hd.JacobianModel(problem, prior, misfit)

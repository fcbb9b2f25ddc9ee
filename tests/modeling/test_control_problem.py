import dolfin as dl
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError, VectorError
from hippylib_dino.modeling.spaces import owned_values
from hippylib_dino.modeling.verify import STEPS, rate
from tests import control_problems
from tests.control_problems import CONTROL, ControlModel, vector

NAMES = ("wells", "bent", "reals", "field")


@pytest.fixture(scope="module")
def problems():
    return {name: control_problems.build(name, hd.sample_communicator()) for name in NAMES}


@pytest.fixture(params=NAMES)
def problem(request, problems):
    return problems[request.param].problem


@pytest.fixture
def point(problem):
    m, z = problem.generate_parameter(), problem.generate_control()
    return vector(m, 1, 0.3), vector(z, 2, 0.5)


def moved(x, h, direction):
    out = x.copy()
    out.axpy(h, direction)
    return out


@pytest.mark.parametrize("variable", [hp.PARAMETER, CONTROL])
def test_taylor_rates_of_a_soupy_caller(problem, point, variable):
    """Cost, gradient and Hessian by the adjoints of a control model: rates 2, 3; a wrong one is seen."""
    m, z = point
    caller = ControlModel(problem, control_problems.soupy_quantity(problem))
    x = caller.point(m, z)
    caller.adjoint(x)
    direction = vector(caller.new(variable), 9, 0.25)
    gradient = caller.gradient(x, variable).inner(direction)
    curvature = caller.hessian_action(x, direction, variable).inner(direction)

    def cost(h):
        return (
            caller.cost(moved(m, h, direction), z)
            if variable == hp.PARAMETER
            else caller.cost(m, moved(z, h, direction))
        )

    change = np.array([cost(h) for h in STEPS]) - caller.quantity.cost(x)
    assert rate(np.abs(change - STEPS * gradient)) == pytest.approx(2, abs=0.2)
    assert rate(np.abs(change - STEPS * gradient - STEPS**2 / 2 * curvature)) == pytest.approx(3, abs=0.2)
    assert rate(np.abs(change - 1.5 * STEPS * gradient)) < 1.7
    assert rate(np.abs(change - STEPS * gradient - 1.1 * STEPS**2 / 2 * curvature)) < 2.6


def test_jacobians_of_both_variables_have_rate_two(problems):
    for name, model in problems.items():
        m = vector(model.prior.mean, 1, 0.3)
        z, dz = vector(model.problem.generate_control(), 2, 0.5), vector(model.problem.generate_control(), 3, 0.25)
        model.problem.control = z
        base, _ = model.linearize(m)
        Jz = model.control_jacobian()
        slope = Jz.mult_block(owned_values(dz)[:, None])[:, 0]
        change = []
        for h in STEPS:
            model.problem.control = moved(z, h, dz)
            change.append(model.evalObservable(m) - base)
        change = np.array(change)
        assert rate(np.linalg.norm(change, axis=1)) == pytest.approx(1, abs=0.2), name
        assert rate(np.linalg.norm(change - STEPS[:, None] * slope, axis=1)) == pytest.approx(2, abs=0.2), name
        assert rate(np.linalg.norm(change - 1.5 * STEPS[:, None] * slope, axis=1)) < 1.7, name


@pytest.mark.parametrize("observable", ["state", "points"])
@pytest.mark.parametrize("name", ["bent", "field"])
def test_control_jacobian_and_its_adjoint(name, observable, rng):
    """wᵀ(J_z v) = (J_zᵀw)ᵀv, rows and columns give the same matrix, from one factorization with J_m."""
    model = control_problems.build(name, hd.sample_communicator(), observable=observable)
    model.problem.control = vector(model.problem.generate_control(), 2, 0.5)
    model.linearize(vector(model.prior.mean, 1, 0.3))
    before = model.problem.n_assemblies["factorization"]
    J = model.control_jacobian()
    V, W = rng.standard_normal((J.shape[1], 4)), rng.standard_normal((J.shape[0], 4))
    np.testing.assert_allclose(W.T @ J.mult_block(V), J.transpmult_block(W).T @ V, rtol=1e-9)
    np.testing.assert_allclose(J.to_dense() @ V, J.mult_block(V), rtol=0, atol=1e-9)
    assert model.problem.n_assemblies["factorization"] <= before + 1


def test_third_variations_are_derivatives_of_second(problem, point):
    """apply_ijk against differences of apply_ij, over all variables."""
    m, z = point
    caller = ControlModel(problem, None)
    x = [vector(problem.generate_state(), 4, 0.3), m, vector(problem.generate_state(), 5, 0.3), z]
    variables = (hp.STATE, hp.PARAMETER, hp.ADJOINT, CONTROL)
    free = problem.generate_state()
    free[:] = 1.0
    for bc in problem.bc0:
        bc.apply(free)

    def inside(i, seed):
        out = vector(caller.new(i), seed)
        if i in (hp.STATE, hp.ADJOINT):
            out *= free
        return out

    for i in variables:
        for j in variables:
            for k in variables if i != j or i != hp.ADJOINT else ():  # of which hIPPYlib knows no second variation
                jdir, kdir, exact = inside(j, 6), inside(k, 7), caller.new(i)
                problem.apply_ijk(i, j, k, x, jdir, kdir, exact)
                h, ends = 1e-4, []
                for step in (-h, h):
                    at = list(x)
                    at[k] = moved(x[k], step, kdir)
                    problem.setLinearizationPoint(at, False)
                    ends.append(owned_values(caller.second(i, j, jdir, both=False)))
                difference = (ends[1] - ends[0]) / (2 * h)
                if i in (hp.STATE, hp.ADJOINT):
                    difference *= owned_values(free)
                size = max(1.0, np.abs(difference).max())
                np.testing.assert_allclose(
                    owned_values(exact), difference, rtol=0, atol=2e-6 * size, err_msg=f"{i}{j}{k}"
                )


def test_gauss_newton_has_no_second_derivatives(problem, point):
    m, z = point
    caller = ControlModel(problem, None)
    x = [vector(problem.generate_state(), 4), m, vector(problem.generate_state(), 5), z]
    problem.setLinearizationPoint(x, True)
    for other in (hp.STATE, hp.PARAMETER, CONTROL):
        assert caller.second(CONTROL, other, vector(caller.new(other), 6), both=False).norm("l2") == 0.0
    assert caller.second(CONTROL, hp.ADJOINT, vector(caller.new(hp.STATE), 6), both=False).norm("l2") > 0.0


def test_a_point_without_a_control_is_at_the_current_one(problems):
    model = problems["bent"]
    pde, m = model.problem, vector(model.prior.mean, 1, 0.3)
    z = vector(pde.generate_control(), 2)
    pde.control = z
    here, there = pde.generate_state(), pde.generate_state()
    pde.solveFwd(here, [here.copy(), m, None])
    with pde.at(pde.generate_control()):
        pde.solveFwd(there, [there.copy(), m, None, z])
        assert pde.control.norm("l2") == 0.0
    np.testing.assert_array_equal(owned_values(here), owned_values(there))
    np.testing.assert_array_equal(owned_values(pde.control), owned_values(z))


def test_sources_are_assembled_once(problems):
    pde = problems["wells"].problem
    assert pde._forms.additive
    assert not problems["bent"].problem._forms.additive
    before = pde._forms.Cz.n_assemblies
    for seed in range(3):
        pde.control = vector(pde.generate_control(), seed)
        problems["wells"].evalObservable(vector(problems["wells"].prior.mean, seed, 0.3))
        problems["wells"].control_jacobian().mult_block(np.eye(3))
    assert pde._forms.Cz.n_assemblies <= max(before, 1)


def test_inversion_at_a_fixed_control_in_hippylibs_newton():
    from tests.problems import observe_truth, solve_map

    model = control_problems.build("bent", hd.sample_communicator(), observable="points")
    model.problem.control = np.array([0.5, -1.0, 1.0])
    observe_truth(model)
    _, solver = solve_map(model)
    assert solver.converged


def test_linear_problem():
    def form(u, m, p, z):
        return (dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p)) - (z[0] + m * z[1] - z[2] ** 2) * p) * control_problems.DX

    model = control_problems._model(
        hd.sample_communicator(), control_problems.coefficients, form, control_problems.box(3), linear=True
    )
    caller = ControlModel(model.problem, hd.ouu.tracking(model.problem.Vh, control_problems.target()))
    m, z = vector(model.prior.mean, 1, 0.3), vector(model.problem.generate_control(), 2)
    x = caller.point(m, z)
    caller.adjoint(x)
    dz = vector(z, 3)
    slope = caller.gradient(x).inner(dz)
    change = np.array([caller.cost(m, moved(z, h, dz)) for h in STEPS]) - caller.quantity.cost(x)
    assert rate(np.abs(change - STEPS * slope)) == pytest.approx(2, abs=0.2)


PARTITIONED = """
import numpy as np, dolfin as dl, hippylib as hp, hippylib_dino as hd
from tests import control_problems
from tests.control_problems import CONTROL, ControlModel
from hippylib_dino.modeling.spaces import DofOrder, owned_values, set_owned_values
dl.set_log_level(dl.LogLevel.ERROR)
for name, observable in (("wells", "state"), ("bent", "points"), ("field", "state")):
    model = control_problems.build(name, hd.sample_communicator(None), observable=observable)
    pde = model.problem
    m = pde.generate_parameter()
    order = DofOrder(model.prior.Vh)
    set_owned_values(m, order.from_array(0.3 * np.sin(np.arange(order.dim))))
    dim = pde.control_order.dim
    pde.control = 0.5 * np.cos(np.arange(dim))
    z, dz = pde.control, pde.control_from_array(np.sin(1.0 + np.arange(dim)))
    caller = ControlModel(pde, control_problems.soupy_quantity(pde))
    x = caller.point(m, z)
    caller.adjoint(x)
    gradient = pde.control_to_array(caller.gradient(x))
    hessian = pde.control_to_array(caller.hessian_action(x, dz))
    model.linearize(m)
    J = model.control_jacobian()
    V = np.sin(np.outer(1.0 + np.arange(dim), [1.0, 2.0]))
    columns = J.mult_block(pde.control_order.from_array(V))
    W = np.cos(np.outer(np.arange(J.shape[0]), [0.3, 0.9]))
    rows = pde.control_order.to_array(J.transpmult_block(W))
    if dl.MPI.rank(dl.MPI.comm_world) == 0:
        print("RESULT", [f"{v:.7g}" for a in (gradient, hessian, columns, rows) for v in (a.sum(), (a**2).sum())])
"""


def test_a_partitioned_mesh_gives_the_same(run_python):
    one, two = (
        [line for line in run_python(PARTITIONED, ranks=n).stdout.splitlines() if line.startswith("RESULT")]
        for n in (1, 2)
    )
    assert len(one) == 3
    for a, b in zip(one, two, strict=True):
        a, b = (np.array(eval(line.removeprefix("RESULT ")), dtype=float) for line in (a, b))
        np.testing.assert_allclose(a, b, rtol=2e-6)


def test_bad_input_is_named(problems):
    pde = problems["wells"].problem
    space = pde.Vh[hp.STATE]
    with pytest.raises(InputError, match="expected four spaces"):
        hd.ControlProblem([space] * 3, control_problems.wells, [], [])
    unused = hd.ControlProblem(pde.Vh, lambda u, m, p, z: control_problems.diffusion(u, m, p), [], [])
    with pytest.raises(InputError, match="the form does not depend on the control z"):
        unused.solveFwd(unused.generate_state(), [unused.generate_state(), unused.generate_parameter(), None])
    with pytest.raises(InputError, match=r"control: expected shape \(3,\), one number for each control, got \(4,\)"):
        pde.control = np.zeros(4)
    with pytest.raises(VectorError, match="control: expected a vector of size 3"):
        pde.solveFwd(pde.generate_state(), [None, pde.generate_parameter(), None, pde.generate_state()])
    with pytest.raises(InputError, match="expected a distribution of 3 controls"):
        hd.JacobianModel(pde, problems["wells"].prior, problems["wells"].misfit, control=control_problems.box(4))
    stock = hd.AcceleratedVariationalProblem([space] * 3, control_problems.diffusion, [], [])
    with pytest.raises(InputError, match="which has no control"):
        hd.JacobianModel(stock, problems["wells"].prior, problems["wells"].misfit, control=control_problems.box(3))
    with pytest.raises(InputError, match=r"expected an hd\.ControlProblem"):
        hd.JacobianModel(stock, problems["wells"].prior, problems["wells"].misfit).control_jacobian()
    with pytest.raises(InputError, match="dim: expected at least 1 control"):
        hd.ouu.CoefficientSpace(space.mesh(), 0)

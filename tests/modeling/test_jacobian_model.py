import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError, SolveError, VectorError
from hippylib_dino.modeling.spaces import owned_values, set_owned_values
from tests.problems import observe_truth, solve_map


def test_from_model_keeps_the_parts(models):
    plain = hp.Model(models["poisson"].problem, models["poisson"].prior, models["poisson"].misfit)
    model = hd.JacobianModel.from_model(plain)
    np.testing.assert_array_equal(model.value(plain.prior.mean), models["poisson"].value(plain.prior.mean))


def test_gradient_is_the_jacobian_applied_to_the_weighted_residual(models):
    """The misfit gradient of hIPPYlib's adjoint and of our Jacobian."""
    model = models["vector"]
    observe_truth(model)
    m = hd.data.draw_parameter(model.prior, 1, 1)
    x = [model.solveState(m), m, model.generate_vector(hp.ADJOINT)]
    model.solveAdj(x[hp.ADJOINT], x)
    gradient = model.generate_vector(hp.PARAMETER)
    model.evalGradientParameter(x, gradient, misfit_only=True)
    residual = model.value(m) - owned_values(model.misfit.d)
    ours = owned_values(model.vjp(m, model.noise_covariance.solve(residual)))
    np.testing.assert_allclose(ours, owned_values(gradient), rtol=0, atol=1e-8 * np.abs(ours).max())


def test_covariance_misfit_in_newton_cg(models):
    model = models["accelerated_vector"]
    observe_truth(model)
    _, solver = solve_map(model)
    assert solver.converged


def test_rows_equal_hippylibs_one_adjoint_solve_each(models):
    model = models["confusion"]
    m = hd.data.draw_parameter(model.prior, 1, 1)
    dense = model.jacobian(m).to_dense()
    rhs, p, row = (model.generate_vector(i) for i in (hp.STATE, hp.ADJOINT, hp.PARAMETER))
    e = model.misfit.d.copy()
    for i in (0, 17, 49):
        values = np.zeros(50)
        values[i] = 1.0
        set_owned_values(e, values)
        model.B.transpmult(e, rhs)
        model.solveAdjIncremental(p, rhs)
        model.applyCt(p, row)
        np.testing.assert_allclose(-owned_values(row), dense[i], rtol=0, atol=1e-12)


def test_fewer_parameters_than_observables_takes_columns(models, monkeypatch):
    model = models["mixed"]
    J = model.jacobian(model.prior.mean)
    assert J.shape[1] < J.shape[0]
    by_rows = J.transpmult_block(np.eye(J.shape[0])).T
    monkeypatch.setattr(J, "transpmult_block", None)  # an adjoint solve would fail
    np.testing.assert_allclose(J.to_dense(), by_rows, rtol=0, atol=1e-11 * np.abs(by_rows).max())


def test_jacobian_of_another_point_is_refused(models):
    model = models["confusion"]
    J = model.jacobian(model.prior.mean)
    model.jacobian(hd.data.draw_parameter(model.prior, 1, 1))
    with pytest.raises(InputError, match="was linearised at another point since"):
        J.to_dense()


def test_problem_that_is_not_variational_is_named(models):
    with pytest.raises(InputError, match=r"problem: expected an hp\.PDEVariationalProblem or .*, got PDEProblem"):
        hd.JacobianModel(hp.PDEProblem(), models["linear"].prior, models["linear"].misfit)


@pytest.mark.parametrize("name", ["poisson", "confusion", "confusion surrogate"])
def test_vector_of_the_wrong_size_is_named(maps, models, name):
    other = models["vector"].prior.mean
    with pytest.raises(VectorError, match=r"m: expected a vector of size \d+ .*, got size 49"):
        maps[name].evalObservable(other)


def test_nan_from_a_solve_is_an_error(models):
    m = models["poisson"].prior.mean.copy()
    m[0] = np.nan
    with pytest.raises(SolveError, match=r"not finite|the forward solve failed"):
        models["poisson"].evalObservable(m)


def test_newton_that_fails_is_an_error(models):
    m = models["confusion"].prior.mean.copy()
    set_owned_values(m, np.full(m.local_size(), 1e3))
    with pytest.raises(SolveError, match="the forward solve"):
        models["confusion"].evalObservable(m)


def test_observable_does_not_depend_on_what_was_solved_before(models):
    model = models["confusion"]
    a, b = (hd.data.draw_parameter(model.prior, 1, i) for i in (1, 2))
    first = model.evalObservable(a)
    model.evalObservable(b)
    np.testing.assert_array_equal(model.evalObservable(a), first)


def test_krylov_solvers_give_the_same_jacobian(models):
    """The user's own iterative solvers take the block one column after the other."""
    from tests import problems

    model = problems.vector(hd.sample_communicator())
    for name in ("solver_fwd_inc", "solver_adj_inc"):
        solver = hp.PETScKrylovSolver(model.prior.Vh.mesh().mpi_comm(), "gmres", "ilu")
        solver.parameters["relative_tolerance"] = 1e-12
        setattr(model.problem, name, solver)
    m = hd.data.draw_parameter(model.prior, 1, 1)
    exact = models["vector"].jacobian(m).to_dense()
    J = model.jacobian(m)
    np.testing.assert_allclose(J.to_dense(), exact, rtol=0, atol=1e-8 * np.abs(exact).max())


def test_krylov_solver_that_does_not_converge_is_an_error():
    from tests import problems

    model = problems.vector(hd.sample_communicator())
    solver = hp.PETScKrylovSolver(model.prior.Vh.mesh().mpi_comm(), "gmres", "none")
    solver.parameters["maximum_iterations"] = 1
    model.problem.solver_fwd_inc = model.problem.solver_adj_inc = solver
    with pytest.raises(SolveError, match="linear solve of Jacobian column 0 failed: Solution failed to converge"):
        model.jacobian(model.prior.mean).to_dense()


def test_wrong_direction_and_weights_are_named(models):
    model, other = models["vector"], models["poisson"]
    m = model.prior.mean
    with pytest.raises(VectorError, match="direction: expected a vector of size 49"):
        model.jvp(m, other.prior.mean)
    with pytest.raises(InputError, match=r"weights: expected shape \(8,\), one for each observable, got \(7,\)"):
        model.vjp(m, np.ones(7))


class InPlace(hp.PDEVariationalProblem):
    """A user's class that assembles into the matrices it has."""

    def setLinearizationPoint(self, x, gauss_newton_approx):
        old = self.A, self.C
        super().setLinearizationPoint(x, gauss_newton_approx)
        if old[0] is not None:
            for mine, new in zip(old, (self.A, self.C), strict=True):
                mine.zero()
                mine.axpy(1.0, new, True)
            self.A, self.C = old
            self.solver_fwd_inc.set_operator(self.A)


def test_jacobian_of_matrices_that_were_assembled_into_again_is_refused(models):
    from tests import problems

    pde = problems.plain(models["vector"]).problem
    own = InPlace(pde.Vh, pde.varf_handler, pde.bc, pde.bc0)
    model = hd.JacobianModel(own, models["vector"].prior, models["vector"].misfit)
    a, b = (hd.data.draw_parameter(model.prior, 1, i) for i in (1, 2))
    J = model.jacobian(a)
    expected = J.mult_block(owned_values(a)[:, None])
    np.testing.assert_array_equal(J.mult_block(owned_values(a)[:, None]), expected)  # solves leave it alive
    other = model.jacobian(b)
    with pytest.raises(InputError, match="was linearised at another point since"):
        J.mult_block(owned_values(a)[:, None])
    assert np.abs(other.mult_block(owned_values(a)[:, None]) - expected).max() > 0

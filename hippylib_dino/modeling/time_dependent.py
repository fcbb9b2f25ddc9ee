"""Observable and Jacobian of hIPPYlib's time-dependent problems.

One step of the scheme is r(u_n, u_{n-1}, m; v) = 0 for all v, n = 1 .. N, from a given u_0.  With
A_n = ∂r/∂u_n, D_n = ∂r/∂u_{n-1} and C_n = ∂r/∂m, a change of the parameter moves the states by

    A_n δu_n = -D_n δu_{n-1} - C_n δm,    δu_0 = 0,    J δm = (B_k δu_{n_k})_k,

and the transpose of these relations is the march backwards, from P_{N+1} = 0,

    A_nᵀ P_n = Σ_{k: n_k = n} B_kᵀ w_k - D_{n+1}ᵀ P_{n+1},    Jᵀ w = -Σ_n C_nᵀ P_n.

On the Dirichlet boundary δu_n = 0: A_n has rows and columns of the identity there, C_n and D_n rows
of zeros, so that what a right-hand side has there reaches nothing else.
"""

from __future__ import annotations

from typing import Any

import dolfin as dl
import hippylib as hp
import numpy as np
from hippylib.utils.warnings import ModelConvergenceError
from petsc4py import PETSc

from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.modeling.changes import Surroundings, coefficient_values, same_values
from hippylib_dino.modeling.form_splitting import expanded
from hippylib_dino.modeling.jacobian import Jacobian, reason
from hippylib_dino.modeling.linear_solver import LinearSolver
from hippylib_dino.modeling.quadrature import linear_with_fixed_degrees, with_fixed_degrees
from hippylib_dino.modeling.spaces import DofOrder, dense_matrix, dense_product, destroy_with, on_all, sum_over_ranks
from hippylib_dino.modeling.time_observation import TimeObservation


def solve_trajectory(model: hp.Model, m: dl.GenericVector) -> hp.TimeDependentVector:
    """The states at all times, by the forward solve of the model's own problem.

    Raises
    ------
    SolveError
        If a step does not converge or gives values that are not finite.
    """
    u = model.problem.generate_state()
    try:
        model.solveFwd(u, [None, m, None])
    except (RuntimeError, ModelConvergenceError) as error:  # dolfin raises a bare RuntimeError
        raise SolveError(f"the forward solve failed: {reason(error)}") from error
    for t, snapshot in zip(u.times, u.data, strict=True):  # its own norm would pass over NaN
        if not np.isfinite(snapshot.norm("l2")):
            raise SolveError(f"the forward solve gave values that are not finite (NaN or infinity) at t = {t:g}.")
    return u


class OneStepScheme:
    """The scheme of a problem, linearised step by step.

    Its forms, matrices and factorization are made once and used again at every step and for every
    parameter; one scheme serves all Jacobians of a model, one march after the other.

    The user's form handler is called once in each step, with that step's time, before anything is
    assembled.  Steps share compiled forms where their residuals are equal in UFL; a residual that
    holds the time as a number or in a new coefficient is compiled for each step.  Derivatives are integrated
    by the rules by which hIPPYlib's forward march integrates the residual.

    Parameters
    ----------
    problem : hp.TimeDependentPDEVariationalProblem
    """

    def __init__(self, problem: hp.TimeDependentPDEVariationalProblem):
        self.problem = problem
        states, parameters, adjoints = (problem.Vh[i] for i in (hp.STATE, hp.PARAMETER, hp.ADJOINT))
        self._functions = dl.Function(states), dl.Function(states), dl.Function(parameters)
        self._test = dl.TestFunction(adjoints)
        self._solver = LinearSolver(problem.Vh[hp.STATE].mesh().mpi_comm(), lu_method="mumps")
        self._comm = problem.Vh[hp.STATE].mesh().mpi_comm()
        self._compiled: dict[tuple, LinearizedStep] = {}
        self._current: LinearizedStep | None = None

    def residual(self, t: float) -> Any:
        """What the user's handler gives for a step that ends at `t`."""
        return self.problem.varf(*self._functions, self._test, t)

    def linear_in_state(self) -> tuple:
        """The residual of the first step and its state u_n, for `check_linear`."""
        return self.residual(self.problem.times[1]), self._functions[0]

    def values(self) -> tuple:
        """What tells this problem from the same problem after its user has changed it: form and values of a step."""
        residual = self.residual(self.problem.times[-1])
        others = [c for c in residual.coefficients() if c not in self._functions]
        return residual.signature(), [coefficient_values(c) for c in others]

    def agrees(self, then: tuple) -> bool:
        """Whether the problem is, as far as can be told, what it was when `values` gave `then`."""
        (signature, values), (old_signature, old_values) = self.values(), then
        return on_all(self._comm, signature == old_signature and same_values(values, old_values, unknown=True))

    def _surrounded_as(self, step: LinearizedStep, residual: Any) -> bool:
        """Whether mesh, marks and boundary conditions are what they were when a step's forms were compiled."""
        return on_all(self._comm, step.surroundings.are_as(residual, [self.problem.adj_bc]))

    def linearize(self, n: int, u: hp.TimeDependentVector, m: dl.GenericVector) -> LinearizedStep:
        """Step n = 1 .. N on the trajectory `u` at the parameter `m`; good until the next call."""
        for function, values in zip(self._functions, (u.data[n], u.data[n - 1], m), strict=True):
            function.vector().zero()
            function.vector().axpy(1.0, values)
        residual = self.residual(self.problem.times[n])
        current = self._current
        if current is None or not (residual.equals(current.residual) and self._surrounded_as(current, residual)):
            if current is not None:
                current.release()
            current = self._current = self._compile(residual)
        return current

    def _compile(self, residual) -> LinearizedStep:
        # what dolfin's own cache of compiled code asks, and the very same coefficients: unlike `equals`
        # this does not see the arbitrary numbering of summation indices
        data = tuple(id(integral.subdomain_data()) for integral in residual.integrals())
        key = (residual.signature(), residual.coefficients(), data)
        step = self._compiled.pop(key, None)
        if step is None or not self._surrounded_as(step, residual):
            linear = self.problem.is_fwd_linear
            step = LinearizedStep(residual, self._functions, self.problem.adj_bc, self._solver, linear=linear)
        self._compiled[key] = step
        if len(self._compiled) > len(self.problem.times):
            del self._compiled[next(iter(self._compiled))]  # the one not used for longest
        return step


class LinearizedStep:
    """A_n, D_n and C_n of one step; blocks have the rows this rank owns, (n_owned, c)."""

    def __init__(self, residual, functions: tuple, bcs: list, solver: LinearSolver, *, linear: bool):
        self.residual, self.surroundings = residual, Surroundings(residual, [bcs])
        self._solver = solver
        u, u_old, m = functions
        self._layouts = u.vector(), m.vector()
        (test,), trial = residual.arguments(), dl.TrialFunction(u.function_space())
        rhs = dl.inner(u, test) * dl.dx  # never assembled, but dolfin's symmetric assembly wants one
        directions = trial, trial, dl.TrialFunction(m.function_space())
        solved = linear_with_fixed_degrees(residual, u) if linear else with_fixed_degrees(residual)
        forms = [expanded(solved, f, d) for f, d in zip(functions, directions, strict=True)]
        self._A = _Derivative(forms[0], (u, u_old), bcs, rhs)
        self._D, self._C = (None if f.empty() else _Derivative(f, (u, u_old), bcs) for f in forms[1:])

    def couple(self, block: PETSc.Mat, *, transposed: bool = False) -> np.ndarray:
        """D_n, or D_nᵀ, times a block."""
        return _times(self._D, block, transposed, self._layouts[0])

    def force(self, block: PETSc.Mat, *, transposed: bool = False) -> np.ndarray:
        """C_n times parameter directions, or C_nᵀ times adjoints."""
        return _times(self._C, block, transposed, self._layouts[1 if transposed else 0])

    def solve(self, rhs: np.ndarray, *, transposed: bool = False) -> PETSc.Mat:
        """A_n⁻¹, or A_n⁻ᵀ, times `rhs`, as a dense matrix that the caller destroys.

        Raises
        ------
        SolveError
            If A_n is singular, or the solution not finite.
        """
        if self._A.update():
            self._solver.set_operator(self._A.matrix)
        block = dense_matrix(self._layouts[0], rhs)
        try:
            return self._solver.solve_block(block, transposed=transposed)
        except SolveError as error:
            self._A.release()  # lest the next call takes it for factored
            raise SolveError(f"the linearised time step could not be solved: {error}") from error
        finally:
            block.destroy()

    def release(self) -> None:
        """Give back the matrices; they are assembled again when needed."""
        for derivative in (self._A, self._D, self._C):
            if derivative is not None:
                derivative.release()


def _times(derivative: _Derivative | None, block: PETSc.Mat, transposed: bool, layout: dl.GenericVector) -> np.ndarray:
    """A derivative, None where it vanishes, or its transpose times a block; rows as in `layout`."""
    if derivative is None:
        return np.zeros((layout.local_size(), block.getSize()[1]))
    derivative.update()
    return dense_product(derivative.matrix, block, transposed)


class _Derivative:
    """A derivative of the residual as a matrix with homogeneous Dirichlet conditions.

    Rows and columns on the boundary are those of the identity where a right-hand side form is given,
    rows of zeros otherwise.
    """

    def __init__(self, form, states: tuple, bcs: list, rhs=None):
        self._bcs = bcs
        self._comm = states[0].function_space().mesh().mpi_comm()
        self._form = dl.Form(form) if rhs is None else None
        self._assembler = None if rhs is None else dl.SystemAssembler(form, rhs, bcs)
        self._tensor: dl.PETScMatrix | None = None
        self.matrix: PETSc.Mat | None = None
        self._coefficients = form.coefficients()
        self._follows_state = any(c in states for c in self._coefficients)
        self._values: list[np.ndarray | None] = []

    def update(self) -> bool:
        """Assemble the matrix, unless nothing it depends on has changed; say whether it was assembled."""
        if not self._follows_state:
            values = [coefficient_values(c) for c in self._coefficients]
            same = self._tensor is not None and same_values(values, self._values, unknown=False)
            self._values = values
            if on_all(self._comm, same):
                return False
        self._assemble()
        return True

    def _assemble(self) -> None:
        if self._tensor is None:
            self._tensor = dl.PETScMatrix(self._comm)
        if self._assembler is not None:
            self._assembler.assemble(self._tensor)
        else:
            dl.assemble(self._form, tensor=self._tensor)
            for bc in self._bcs:
                bc.zero(self._tensor)
        if self.matrix is None:
            self.matrix = self._tensor.mat()
            destroy_with(self, self._comm, self.matrix)

    def release(self) -> None:
        if self.matrix is not None:
            self.matrix.destroy()
        self._tensor = self.matrix = None


class TimeDependentJacobian(Jacobian):
    """J = dq/dm on a trajectory, by marches of many right-hand sides at once.

    Adjoint marches give rows, forward marches give columns; each assembles and factors A_n once a
    step.  It stays good whatever is solved or linearised later, unless the user changes the problem: then it raises
    `InputError`, for the states that it was made from are another problem's.

    Parameters
    ----------
    scheme : OneStepScheme
        Of the problem; shared by all its Jacobians.
    observation : TimeObservation
    trajectory : hp.TimeDependentVector
        The states at `parameter`; kept, not copied.
    parameter : dolfin vector
    """

    def __init__(
        self,
        scheme: OneStepScheme,
        observation: TimeObservation,
        trajectory: hp.TimeDependentVector,
        parameter: dl.GenericVector,
    ):
        super().__init__(observation.generate_data(), parameter.copy())
        self._scheme = scheme
        self._observation = observation
        self._trajectory = trajectory
        self._values = scheme.values()

    def _check_alive(self) -> None:
        if not self._scheme.agrees(self._values):
            raise InputError(
                "Jacobian: the form of its problem, or a coefficient of it, has changed since; call "
                "model.jacobian(m) again, or keep to_dense()."
            )

    def _parameter_order(self) -> DofOrder:
        return DofOrder(self._scheme.problem.Vh[hp.PARAMETER])

    def mult_block(self, directions: np.ndarray) -> np.ndarray:
        if self._dense is not None:
            return sum_over_ranks(self._dense.T @ directions, self._parameter.mpi_comm())
        self._check_alive()
        q = np.zeros((self.shape[0], directions.shape[1]))
        observed = {n: k for k, n in enumerate(self._observation.steps)}
        dm = dense_matrix(self._parameter, directions)
        du = None
        for n in range(1, max(observed) + 1):
            step = self._scheme.linearize(n, self._trajectory, self._parameter)
            rhs = -step.force(dm)
            if du is not None:  # the initial condition does not depend on the parameter
                rhs -= step.couple(du)
                du.destroy()
            du = step.solve(rhs)
            if n in observed:
                q[self._observation.rows[observed[n]]] = self._observation.observe_block(observed[n], du)
        dm.destroy()
        if du is not None:
            du.destroy()
        return q

    def transpmult_block(self, weights: np.ndarray) -> np.ndarray:
        if self._dense is not None:
            return self._dense @ weights
        self._check_alive()
        gradient = np.zeros((self._parameter.local_size(), weights.shape[1]))
        observed = {n: k for k, n in enumerate(self._observation.steps)}
        rhs = np.zeros((self._trajectory.data[0].local_size(), weights.shape[1]))
        reached = np.zeros(weights.shape[1], dtype=bool)  # columns with a weight at this time or later
        for n in range(max(observed), 0, -1):
            if n in observed:
                here = weights[self._observation.rows[observed[n]]]
                rhs += self._observation.transpmult_block(observed[n], here)
                reached |= here.any(axis=0)
            if not reached.any():
                continue
            step = self._scheme.linearize(n, self._trajectory, self._parameter)
            p = step.solve(rhs[:, reached], transposed=True)
            gradient[:, reached] -= step.force(p, transposed=True)
            if n > 1:
                rhs[:, reached] = -step.couple(p, transposed=True)
            p.destroy()
        return gradient

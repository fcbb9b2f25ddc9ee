"""The Jacobian J = dq/dm of a parameter-to-observable map, as an operator."""

from __future__ import annotations

import abc
from typing import Literal

import dolfin as dl
import hippylib as hp
import numpy as np
from petsc4py import PETSc

from hippylib_dino.errors import InputError, RankError, SolveError
from hippylib_dino.modeling.control_forms import CoefficientOrder
from hippylib_dino.modeling.spaces import (
    DofOrder,
    check_vector,
    dense_matrix,
    dense_product,
    destroy_with,
    gather,
    owned_values,
    set_owned_values,
    sum_over_ranks,
)
from hippylib_dino.modeling.variational_problem import AcceleratedVariationalProblem
from hippylib_dino.ordering import CANONICAL, DOLFIN, ordered


class Jacobian(abc.ABC):
    """J (dQ x dM) at one parameter: takes primal parameters to data, data's dual to dual parameters.

    On a partitioned mesh a block of parameter vectors holds the rows this rank owns, in dolfin's
    order; blocks in data space hold all dQ rows on every rank.

    Parameters
    ----------
    observable, parameter : dolfin vectors
        Of the layout of the range and of the domain; only their layout is used.
    """

    def __init__(self, observable: dl.GenericVector, parameter: dl.GenericVector):
        self._observable = observable
        self._parameter = parameter
        self._dense: np.ndarray | None = None  # Jᵀ (n_owned, dQ), once it was asked for

    @abc.abstractmethod
    def mult_block(self, directions: np.ndarray) -> np.ndarray:
        """J V: (n_owned, k) primal parameter directions to (dQ, k)."""

    @abc.abstractmethod
    def transpmult_block(self, weights: np.ndarray) -> np.ndarray:
        """Jᵀ W: (dQ, k) dual data weights to (n_owned, k), dual parameter vectors."""

    def mult_local(self, directions: np.ndarray) -> np.ndarray:
        """J V, this rank's piece of each column; see `DataSpace`."""
        return self.mult_block(directions)

    def transpmult_local(self, weights: np.ndarray) -> np.ndarray:
        """Jᵀ W for this rank's piece of each column of W; see `DataSpace`."""
        return self.transpmult_block(weights)

    @abc.abstractmethod
    def _parameter_order(self) -> DofOrder | CoefficientOrder:
        """Canonical order of the domain."""

    @property
    def shape(self) -> tuple[int, int]:
        """(dQ, dM)."""
        return self._observable.size(), self._parameter.size()

    def init_vector(self, x: dl.GenericVector, dim: int) -> None:
        """Shape `x` for the range (``dim=0``) or the domain (``dim=1``)."""
        like = self._observable if dim == 0 else self._parameter
        x.init(like.local_range())

    def mult(self, x: dl.GenericVector, y: dl.GenericVector) -> None:
        """y = J x."""
        check_vector(x, self._parameter, "x of Jacobian.mult")
        first, last = self._observable.local_range()
        set_owned_values(y, self.mult_block(owned_values(x)[:, None])[first:last, 0])

    def transpmult(self, x: dl.GenericVector, y: dl.GenericVector) -> None:
        """y = Jᵀ x."""
        check_vector(x, self._observable, "x of Jacobian.transpmult")
        everything = gather(owned_values(x), self._observable.mpi_comm())
        set_owned_values(y, self.transpmult_block(everything[:, None])[:, 0])

    def owned_rows(self) -> np.ndarray:
        """Jᵀ, (n_owned, dQ): by rows (dQ adjoint solves) or columns (dM forward solves), the fewer; then it is kept."""
        if self._dense is None:
            n_observables, n_parameters = self.shape
            if n_observables <= n_parameters:
                self._dense = self._every_row()
            else:
                first, last = self._parameter.local_range()
                self._dense = self.mult_block(np.eye(n_parameters)[first:last]).T[first:last].copy()
        return self._dense.copy()

    def _every_row(self) -> np.ndarray:
        return self.transpmult_block(np.eye(self.shape[0]))

    def to_dense(self, order: Literal["dolfin", "canonical"] = "dolfin") -> np.ndarray:
        """J as a (dQ, dM) array on every rank.

        Parameters
        ----------
        order : "dolfin" or "canonical"
            Of the columns: dolfin's global one, that of vectors, or the one of bases and stored Jacobians.  The array
            refuses to meet one in the other order (`hippylib_dino.ordering`): with an input basis it is
            ``J.to_dense("canonical") @ basis.decoder``.

        Raises
        ------
        InputError
            If `order` is another.
        """
        if order not in (DOLFIN, CANONICAL):
            raise InputError(f'order: expected "{DOLFIN}" or "{CANONICAL}", got {order!r}.')
        rows = self.owned_rows()
        if order == CANONICAL:
            return ordered(self._parameter_order().to_array(rows).T.copy(), CANONICAL)
        return ordered(gather(rows, self._parameter.mpi_comm()).T.copy(), DOLFIN)

    def svd(self, rank: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Leading singular triplets in the Euclidean inner product of coefficients.

        J is short and fat, so its dense SVD costs less than a randomized one.

        Returns
        -------
        U (dQ, rank), s (rank,) descending, Vt (rank, dM) with columns in dolfin's order

        Raises
        ------
        RankError
            If `rank` is not in 1 .. min(dQ, dM).
        """
        limit = min(self.shape)
        rank = limit if rank is None else rank
        if not 1 <= rank <= limit:
            raise RankError(f"rank: expected 1 .. {limit} for a Jacobian of shape {self.shape}, got {rank}.")
        U, s, Vt = np.linalg.svd(self.to_dense(), full_matrices=False)
        return U[:, :rank], s[:rank], ordered(Vt[:rank], DOLFIN)


class PDEJacobian(Jacobian):
    """J = -B A⁻¹ C of a PDE, at the point where `problem` was linearised last.

    Forward solves give columns, adjoint solves give rows; one factorization of A or of its
    adjoint serves a whole block.  The next `setLinearizationPoint` of the problem, by anyone, ends the life of this
    object; so does whatever else is assembled into the same matrices.

    Parameters
    ----------
    problem : hp.PDEVariationalProblem
    B : dolfin matrix (dQ x dU)
    observable : dolfin vector
        For its layout.
    variable : hp.PARAMETER or CONTROL
        In which J is the derivative; with the control, -B A⁻¹ C_z.
    """

    def __init__(
        self, problem: hp.PDEVariationalProblem, B, observable: dl.GenericVector, variable: int = hp.PARAMETER
    ):
        of_parameter = variable == hp.PARAMETER
        super().__init__(observable, problem.generate_parameter() if of_parameter else problem.generate_control())
        self._problem, self._of_parameter = problem, of_parameter
        self._state = problem.generate_state()
        self._B: PETSc.Mat = None if B is None else dl.as_backend_type(B).mat()
        self._accelerated = isinstance(problem, AcceleratedVariationalProblem)
        self._linearization = self._problem_linearization()
        # hIPPYlib makes a new A and C for each point; an accelerated problem brings its own up to date when asked
        self._kept_A = None if self._accelerated else problem.A  # kept alive, or its id could be another matrix's
        self._kept_C = None if self._accelerated else dl.as_backend_type(problem.C).mat()
        kept = (each for each in (self._B, self._kept_C) if each is not None)
        destroy_with(self, self._parameter.mpi_comm(), *kept)

    def _parameter_order(self) -> DofOrder | CoefficientOrder:
        return DofOrder(self._problem.Vh[hp.PARAMETER]) if self._of_parameter else self._problem.control_order

    def _problem_linearization(self) -> tuple[int, ...]:
        """What tells one linearisation of the problem from the next: their number, or A and C with PETSc's counts.

        A problem may assemble into its matrices again; PETSc counts how often the entries of each were changed.
        """
        if self._accelerated:
            return (self._problem.linearization,)
        matrices = self._problem.A, self._problem.C
        return tuple(number for X in matrices for number in (id(X), _changes(X)))

    def _check_alive(self) -> None:
        if self._problem_linearization() != self._linearization:
            raise InputError(
                "Jacobian: its problem was linearised at another point since; "
                "call model.jacobian(m) again, or keep to_dense()."
            )

    @property
    def _C(self) -> PETSc.Mat:
        if not self._of_parameter:
            return self._problem.control_derivative()
        return self._problem.parameter_derivative() if self._accelerated else self._kept_C

    def _push(self, directions: np.ndarray) -> np.ndarray:
        """C V, owned rows."""
        C = self._C
        if "dense" not in C.getType():
            block = dense_matrix(self._parameter, directions)
            pushed = dense_product(C, block)
            block.destroy()
            return pushed
        everything = gather(directions, self._parameter.mpi_comm())  # PETSc multiplies no dense matrices of two ranks
        return C.getDenseArray() @ everything

    def _pull(self, adjoints: PETSc.Mat) -> np.ndarray:
        """Cᵀ P, owned rows."""
        C = self._C
        if "dense" not in C.getType():
            return dense_product(C, adjoints, transposed=True)
        everything = sum_over_ranks(C.getDenseArray().T @ adjoints.getDenseArray(), self._parameter.mpi_comm())
        return everything[slice(*self._parameter.local_range())]

    def _solve(self, rows: np.ndarray, *, is_adj: bool) -> PETSc.Mat:
        """A⁻¹ or A⁻ᵀ times owned rows of right-hand sides; the caller destroys it."""
        rhs = dense_matrix(self._state, rows)
        try:
            if self._accelerated:
                return self._problem.solve_block(rhs, is_adj=is_adj)
            return _solve(self._problem.solver_adj_inc if is_adj else self._problem.solver_fwd_inc, rhs, self._state)
        finally:
            rhs.destroy()

    def mult_block(self, directions: np.ndarray) -> np.ndarray:
        self._check_alive()
        if self._dense is not None:
            return sum_over_ranks(self._dense.T @ directions, self._parameter.mpi_comm())
        u = self._solve(self._push(directions), is_adj=False)
        observed = self._observe(u)
        u.destroy()
        return -observed

    def transpmult_block(self, weights: np.ndarray) -> np.ndarray:
        self._check_alive()
        if self._dense is not None:
            return self._dense @ weights
        first, last = self._observable.local_range()
        block = dense_matrix(self._observable, weights[first:last])
        rhs = dense_product(self._B, block, transposed=True)
        block.destroy()
        return self._pulled(self._solve(rhs, is_adj=True))

    def _pulled(self, adjoints: PETSc.Mat) -> np.ndarray:
        """-Cᵀ P, owned rows; P is destroyed."""
        rows = self._pull(adjoints)
        adjoints.destroy()
        return -rows

    def _every_row(self) -> np.ndarray:
        if not self._accelerated:
            return super()._every_row()
        self._check_alive()
        return self._pulled(self._problem.solve_rows(self._B))

    def _observe(self, u: PETSc.Mat) -> np.ndarray:
        return gather(dense_product(self._B, u), self._observable.mpi_comm())


class StateJacobian(PDEJacobian):
    """du/dm = -A⁻¹ C, the Jacobian of a whole state, at the point where `problem` was linearised last.

    It is as large as the mesh on both sides.  Blocks in data space are arrays in canonical order on every rank, as for
    any Jacobian; `mult_local` and `transpmult_local` take and give the rows that a rank owns, for large problems.

    Parameters
    ----------
    problem : hp.PDEVariationalProblem
    state : dolfin vector
        For its layout.
    order : DofOrder
        Of the state space.
    variable : hp.PARAMETER or CONTROL
        See `PDEJacobian`.
    """

    def __init__(
        self,
        problem: hp.PDEVariationalProblem,
        state: dl.GenericVector,
        order: DofOrder,
        variable: int = hp.PARAMETER,
    ):
        super().__init__(problem, None, state, variable)
        self._order = order

    def mult_local(self, directions: np.ndarray) -> np.ndarray:
        """J V by forward sensitivities: (n_owned, k) parameter directions to (n_owned, k) state directions."""
        self._check_alive()
        u = self._solve(self._push(directions), is_adj=False)
        columns = u.getDenseArray().copy()
        u.destroy()
        return -columns

    def transpmult_local(self, weights: np.ndarray) -> np.ndarray:
        """Jᵀ W by adjoint solves: (n_owned, k) dual state weights to (n_owned, k) dual parameter vectors."""
        self._check_alive()
        return self._pulled(self._solve(weights, is_adj=True))

    def adjoints(self, weights: np.ndarray) -> PETSc.Mat:
        """A⁻ᵀ W of dual state weights (n_owned, k): what the Jacobians in parameter and control share."""
        self._check_alive()
        adjoints = self._solve(weights, is_adj=True)
        destroy_with(self, self._parameter.mpi_comm(), adjoints)
        return adjoints

    def pull_adjoints(self, adjoints: PETSc.Mat) -> np.ndarray:
        """Jᵀ W, (n_owned, k), from what `adjoints` gave here or for the other variable."""
        self._check_alive()
        return -self._pull(adjoints)

    def mult(self, x: dl.GenericVector, y: dl.GenericVector) -> None:
        check_vector(x, self._parameter, "x of Jacobian.mult")
        set_owned_values(y, self.mult_local(owned_values(x)[:, None])[:, 0])

    def transpmult(self, x: dl.GenericVector, y: dl.GenericVector) -> None:
        check_vector(x, self._observable, "x of Jacobian.transpmult")
        set_owned_values(y, self.transpmult_local(owned_values(x)[:, None])[:, 0])

    def _every_row(self) -> np.ndarray:
        return self.transpmult_block(np.eye(self.shape[0]))

    def mult_block(self, directions: np.ndarray) -> np.ndarray:
        return self._order.to_array(self.mult_local(directions))

    def transpmult_block(self, weights: np.ndarray) -> np.ndarray:
        return self.transpmult_local(self._order.from_array(weights))


def _solve(solver: dl.GenericLinearSolver, rhs: PETSc.Mat, like: dl.GenericVector) -> PETSc.Mat:
    """Solve for all columns of `rhs`, at once with the factorization that `solver` holds or makes now.

    An iterative solver takes one column after the other, by its own `solve`, which applies the user's settings.
    """
    solution = rhs.duplicate()
    ksp = solver.ksp()
    preconditioner = ksp.getPC()
    if ksp.getType() == PETSc.KSP.Type.PREONLY and preconditioner.getType() in ("lu", "cholesky"):
        ksp.setUp()
        preconditioner.getFactorMatrix().matSolve(rhs, solution)
    else:
        b, x = like.copy(), like.copy()
        for j in range(rhs.getSize()[1]):
            set_owned_values(b, rhs.getDenseArray()[:, j])
            x.zero()
            try:
                solver.solve(x, b)
            except RuntimeError as error:  # dolfin's own, without a type
                raise SolveError(f"linear solve of Jacobian column {j} failed: {reason(error)}") from error
            solution.getDenseArray()[:, j] = owned_values(x)
    if not np.isfinite(solution.norm()):  # over all ranks: they must agree on whether to raise
        raise SolveError("linear solve for the Jacobian gave values that are not finite.")
    return solution


def _changes(matrix: dl.GenericMatrix) -> int:
    """How often a matrix was written to, by PETSc's count."""
    mat = dl.as_backend_type(matrix).mat()
    count = mat.stateGet()
    mat.destroy()  # a reference, which petsc4py would keep
    return count


def reason(error: Exception) -> str:
    """The telling line of dolfin's boxed error messages, or the message itself."""
    for line in str(error).splitlines():
        if "Reason:" in line:
            return line.split("Reason:", 1)[1].strip()
    return str(error).strip() or type(error).__name__

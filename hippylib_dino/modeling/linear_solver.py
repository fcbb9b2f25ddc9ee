"""One operator A, its factorization or Krylov solver, and solves with A and Aᵀ for vectors and blocks."""

from __future__ import annotations

from collections.abc import Callable

import dolfin as dl
import numpy as np
from mpi4py import MPI
from petsc4py import PETSc

from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.modeling.spaces import destroy_with

MANY = 32  # right-hand sides from which on MUMPS pays off on one rank
MUMPS_BLOCK = 128  # right-hand sides that it takes through its factors together; its own default is 32
LINEAR_SOLVERS = ("lu", "krylov")
_MISSING_FACTOR = 92  # PETSC_ERR_MISSING_FACTOR
_REASONS = {
    value: name for name, value in vars(PETSc.KSP.ConvergedReason).items() if isinstance(value, int) and value < 0
}


class LinearSolver:
    """A⁻¹ and A⁻ᵀ of one PETSc matrix, whose values may change and whose pattern may not.

    A direct solver factors at the first solve after `set_operator`, once for solves with A and
    with Aᵀ; later factorizations reuse the ordering of the first.

    Parameters
    ----------
    comm : MPI.Comm
        Of the mesh.
    method : {"lu", "krylov"}
        A direct solver, or GMRES with algebraic multigrid (hypre's where PETSc has it) for large or
        three-dimensional problems.
    lu_method : str, optional
        PETSc's name of a direct solver.  By default ``"mumps"``, but on one rank ``"umfpack"`` where the first
        solve after a new A is not for many right-hand sides.  PETSc's own, ``"petsc"``, is quick on small
        problems, but does not pivot.
    tolerance : float
        Relative, of the preconditioned residual; used by Krylov solves.
    max_iterations : int
        Of a Krylov solve.
    options_prefix : str, optional
        PETSc options with this prefix (command line or ``PETSc.Options``) override these settings.

    Raises
    ------
    InputError
        If `method` or `lu_method` is unknown.

    Attributes
    ----------
    n_factorizations : int
        Factorizations, or set-ups of the preconditioner, so far.
    """

    def __init__(
        self,
        comm: MPI.Comm,
        method: str = "lu",
        *,
        lu_method: str | None = None,
        tolerance: float = 1e-12,
        max_iterations: int = 1000,
        options_prefix: str | None = None,
    ):
        if method not in LINEAR_SOLVERS:
            raise InputError(f"linear_solver: expected one of {LINEAR_SOLVERS}, got {method!r}.")
        if not 0.0 < tolerance < 1.0:
            raise InputError(f"linear_tolerance: expected a number between 0 and 1, got {tolerance}.")
        self.method = method
        self.n_factorizations = 0
        self._comm = comm
        self._lu_method = lu_method
        self._tolerance, self._max_iterations, self._options_prefix = tolerance, max_iterations, options_prefix
        self._matrix: PETSc.Mat = None  # until set_operator
        self._ksp = self._new_ksp(lu_method or ("umfpack" if comm.size == 1 else "mumps"))
        own_choice = method == "lu" and lu_method is None and options_prefix is None and comm.size == 1
        self._for_blocks = self._new_ksp("mumps") if own_choice else self._ksp
        self._factored: PETSc.KSP = None  # the one of these that holds the factors of the present A
        # multigrid preconditioners have no dependable transpose, so Krylov solves with Aᵀ have a matrix of their own
        self._transposed = None if self._is_direct() else self._new_ksp(lu_method)
        self._transposed_matrix = PETSc.Mat()
        self._transposed_stale = True
        made = self._ksp, self._for_blocks, self._transposed, self._transposed_matrix
        destroy_with(self, comm, *(each for each in made if each is not None))

    def _new_ksp(self, lu_method: str | None) -> PETSc.KSP:
        ksp = PETSc.KSP().create(self._comm)
        preconditioner = ksp.getPC()
        if self.method == "lu":
            ksp.setType(PETSc.KSP.Type.PREONLY)
            preconditioner.setType(PETSc.PC.Type.LU)
            preconditioner.setFactorSolverType(lu_method)
        else:
            ksp.setType(PETSc.KSP.Type.GMRES)
            ksp.setGMRESRestart(100)
            ksp.setTolerances(rtol=self._tolerance, atol=1e-300, max_it=self._max_iterations)
            hypre = dl.has_krylov_solver_preconditioner("hypre_amg")
            preconditioner.setType(PETSc.PC.Type.HYPRE if hypre else PETSc.PC.Type.GAMG)
        if self._options_prefix is not None:
            ksp.setOptionsPrefix(self._options_prefix)
            ksp.setFromOptions()
        return ksp

    def _is_direct(self) -> bool:
        """Whether the solver is a factorization, after the user's options."""
        kinds = PETSc.PC.Type.LU, PETSc.PC.Type.CHOLESKY
        return self._ksp.getType() == PETSc.KSP.Type.PREONLY and self._ksp.getPC().getType() in kinds

    def _is_mumps(self, ksp: PETSc.KSP) -> bool:
        return self._is_direct() and ksp.getPC().getFactorSolverType() == "mumps"

    @property
    def ksp(self) -> PETSc.KSP:
        """PETSc's solver."""
        return self._ksp

    def set_operator(self, A: dl.PETScMatrix | PETSc.Mat) -> None:
        """Take A, or take note that its values changed; the factorization waits for the first solve."""
        if isinstance(A, PETSc.Mat):
            self._matrix = A
        else:
            self._matrix = A.mat()
            destroy_with(self, self._comm, self._matrix)
        self._factored = None

    def factor(self, columns: int = 1) -> PETSc.KSP:
        """Factor A now, if its values changed since the last time, for that many right-hand sides.

        Raises
        ------
        SolveError
            If A is singular or not finite.
        InputError
            If PETSc does not have the direct solver.
        """
        if self._factored is None:
            ksp = self._ksp if columns < MANY else self._for_blocks
            self._set_up(ksp, self._matrix)
            self._factored = ksp
            self._transposed_stale = True
        return self._factored

    def _set_up(self, ksp: PETSc.KSP, matrix: PETSc.Mat) -> None:
        ksp.setOperators(matrix)
        try:
            ksp.setUp()
        except PETSc.Error as error:
            if error.ierr == _MISSING_FACTOR:
                raise InputError(
                    f"lu_method: expected a direct solver of this PETSc, got {self._lu_method!r}. "
                    'Try "mumps", "umfpack" or "petsc".'
                ) from error
            self._give_up(ksp)
            raise SolveError(f"the factorization failed: {_last_line(error)}") from error
        self.n_factorizations += 1

    def _give_up(self, ksp: PETSc.KSP) -> None:
        """Forget factors that are no good: MUMPS would refuse every later matrix after one that it could not factor."""
        ksp.reset()
        self._factored, self._transposed_stale = None, True

    def _direction(self, transposed: bool) -> tuple[PETSc.KSP, Callable]:
        """The solver, set up for A or Aᵀ, and its method to call."""
        ksp = self.factor()
        if not transposed:
            return ksp, ksp.solve
        if self._transposed is None:
            return ksp, ksp.solveTranspose
        if self._transposed_stale:
            self._matrix.transpose(self._transposed_matrix)
            self._set_up(self._transposed, self._transposed_matrix)
            self._transposed_stale = False
        return self._transposed, self._transposed.solve

    def solve(self, x: dl.GenericVector, b: dl.GenericVector) -> None:
        """x = A⁻¹ b.

        Raises
        ------
        SolveError
            If the solve fails; with PETSc's name of the reason.
        """
        self._solve_vector(x, b, transposed=False)

    def solve_transposed(self, x: dl.GenericVector, b: dl.GenericVector) -> None:
        """x = A⁻ᵀ b; raises as `solve` does."""
        self._solve_vector(x, b, transposed=True)

    def _solve_vector(self, x: dl.GenericVector, b: dl.GenericVector, *, transposed: bool) -> None:
        xs, bs = dl.as_backend_type(x).vec(), dl.as_backend_type(b).vec()
        try:
            self._run(bs, xs, transposed=transposed)
        finally:
            xs.destroy()  # references, which petsc4py would keep
            bs.destroy()
        x.apply("insert")

    def _run(self, b: PETSc.Vec, x: PETSc.Vec, *, transposed: bool) -> None:
        ksp, solve = self._direction(transposed)
        try:
            solve(b, x)
        except PETSc.Error as error:
            self._give_up(ksp)
            raise SolveError(f"the linear solve failed: {_last_line(error)}") from error
        reason = ksp.getConvergedReason()
        if reason < 0:
            iterations = ksp.getIterationNumber()
            self._give_up(ksp)
            raise SolveError(f"the linear solve failed after {iterations} iterations: {_REASONS[reason]}.")

    def solve_block(self, B: PETSc.Mat, *, transposed: bool = False) -> PETSc.Mat:
        """A⁻¹ B or A⁻ᵀ B for a dense matrix B with one right-hand side a column.

        One PETSc call where the factorization takes blocks (always with A, with Aᵀ for MUMPS), else
        column after column.

        Returns
        -------
        PETSc.Mat
            Dense, of the layout of B; the caller's.

        Raises
        ------
        SolveError
            If a solve fails or gives values that are not finite.
        """
        ksp = self.factor(B.getSize()[1])
        X = B.duplicate()
        if self._is_mumps(ksp) or (self._is_direct() and not transposed):
            self._solve_matrix(ksp, B, X, transposed=transposed)
        else:
            self._solve_columns(B, X, transposed=transposed)
        return self._finite(ksp, X)

    def solve_rows(self, B: PETSc.Mat) -> PETSc.Mat:
        """A⁻ᵀ Bᵀ for a sparse matrix B (k, n), as a dense matrix (n, k).

        MUMPS on one rank takes the right-hand sides as they are and leaves out the part of the
        forward substitution in which they are zero: half the time where a row of B has few entries.

        Raises
        ------
        SolveError
            If a solve fails or gives values that are not finite.
        """
        ksp = self.factor(B.getSize()[0])
        if not (self._comm.size == 1 and self._is_mumps(ksp)):
            dense = B.transpose(PETSc.Mat()).convert("dense")
            X = self.solve_block(dense, transposed=True)
            dense.destroy()
            return X
        X = PETSc.Mat().createDense((B.getSize()[1], B.getSize()[0]), comm=self._comm)
        X.setUp()
        sparse = PETSc.Mat().createTranspose(B)
        self._solve_matrix(ksp, sparse, X, transposed=True)
        sparse.destroy()
        return self._finite(ksp, X)

    def _finite(self, ksp: PETSc.KSP, X: PETSc.Mat) -> PETSc.Mat:
        if not np.isfinite(X.norm()):  # over all ranks: they must agree on whether to raise
            self._give_up(ksp)
            raise SolveError("the block solve gave values that are not finite.")
        return X

    def _solve_matrix(self, ksp: PETSc.KSP, B: PETSc.Mat, X: PETSc.Mat, *, transposed: bool) -> None:
        """One PETSc call for all columns; MUMPS' ICNTL(9) chooses between A and Aᵀ."""
        factor, mumps = ksp.getPC().getFactorMatrix(), self._is_mumps(ksp)
        if mumps:
            factor.setMumpsIcntl(27, -MUMPS_BLOCK)
            factor.setMumpsIcntl(9, 0 if transposed else 1)
        failure: PETSc.Error | None = None
        try:
            factor.matSolve(B, X)
        except PETSc.Error as error:
            failure = error
        finally:
            if mumps:
                factor.setMumpsIcntl(9, 1)
        if failure is not None:
            self._give_up(ksp)
            raise SolveError(f"the block solve failed: {_last_line(failure)}") from failure

    def _solve_columns(self, B: PETSc.Mat, X: PETSc.Mat, *, transposed: bool) -> None:
        x, b = self._matrix.createVecs()
        right, left = B.getDenseArray(), X.getDenseArray()
        for j in range(right.shape[1]):
            b.setArray(right[:, j])  # tells PETSc that norms it kept are stale
            self._run(b, x, transposed=transposed)
            left[:, j] = x.getArray(readonly=True)
        X.assemble()
        x.destroy()
        b.destroy()

    def destroy(self) -> None:
        """Free the factorization now; petsc4py would wait for a garbage collection."""
        self._ksp.destroy()
        self._for_blocks.destroy()
        self._transposed_matrix.destroy()
        if self._transposed is not None:
            self._transposed.destroy()


def _last_line(error: PETSc.Error) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__

"""`hp.PDEVariationalProblem` that compiles its forms once and shares matrices and factorizations."""

from __future__ import annotations

import functools
from collections.abc import Callable

import dolfin as dl
import hippylib as hp
import numpy as np
from hippylib import ADJOINT, PARAMETER, STATE
from petsc4py import PETSc

from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.modeling.changes import Source
from hippylib_dino.modeling.compiled_forms import CachedTensor, CompiledForms
from hippylib_dino.modeling.form_splitting import expanded
from hippylib_dino.modeling.linear_solver import LinearSolver
from hippylib_dino.modeling.linearity import check_linear
from hippylib_dino.modeling.newton import ForwardSolveError, Newton, NewtonOptions, SolveReport
from hippylib_dino.modeling.spaces import owned_values, set_owned_values

FORWARD_SOLVERS = ("newton", "snes")
_BLOCKS = {
    (STATE, STATE): "Wuu",
    (PARAMETER, STATE): "Wmu",
    (PARAMETER, PARAMETER): "Wmm",
    (ADJOINT, STATE): "A",
    (ADJOINT, PARAMETER): "C",
}
_SNES_REASONS = {value: name for name, value in vars(PETSc.SNES.ConvergedReason).items() if isinstance(value, int)}


class AcceleratedVariationalProblem(hp.PDEVariationalProblem):
    """A steady variational problem in which nothing is assembled or factored twice.

    It stands for `hp.PDEVariationalProblem` in every hIPPYlib loop, with the same states, adjoints,
    gradients and Hessians to the solver's tolerance.  A is assembled and factored once at a point (u, m)
    and serves adjoint solves, incremental solves in both directions and whole blocks; A, C and the second
    derivatives are assembled when first asked for.

    One thing differs on purpose: the adjoint is zero on the Dirichlet boundary.  hIPPYlib's is not where a sensor's
    cell touches it, and its gradient is then wrong.

    All derivatives are integrated by the quadrature rules of the residual, so that they are those of the state that is
    computed.  UFL would take more points for derivatives of exp(m), as hIPPYlib does.

    Solves, gradients and linearisations see whatever the user has changed before them, as hIPPYlib's do: values of a
    `dl.Constant`, `dl.Function` or `dl.Expression`, numbers that the handler reads from elsewhere, the lists of
    conditions, the mesh's coordinates and marks.  Values are read at each assembly; for the rest `varf_handler` is
    called at each solve, and the forms are built anew where it gives another one.  A number in a form is compiled code:
    what changes often should be a `dl.Constant`.  Matrices are assembled when first asked for; if a coefficient has
    changed since `setLinearizationPoint`, asking is an error.

    Parameters
    ----------
    Vh : list of three dolfin.FunctionSpace
        State, parameter, adjoint.
    varf_handler : callable ``(u, m, p) -> form``
    bc, bc0 : dolfin.DirichletBC or list of them
        Of the forward problem, and its homogeneous counterpart; they must fix the same degrees of freedom.
    is_fwd_linear : bool
        Whether the form is affine in u; then one linear solve is the forward solve.
    forward_solver : {"newton", "snes"} or callable
        Of nonlinear problems.  "newton": damped, error-oriented (`Newton`).  "snes": PETSc's SNES,
        ``newtonls`` unless the options say otherwise.  A callable ``solve(problem, state, x)`` writes the state at
        ``x[hp.PARAMETER]`` into `state`, from the guess ``x[hp.STATE]``.
    newton : NewtonOptions, optional
        Tolerance, damping and reuse of the matrix; SNES takes its iteration limit alone and has options of its own.
    linear_solver : {"lu", "krylov"}
    lu_method : str, optional
    linear_tolerance : float
        These three are `LinearSolver`'s.
    options_prefix : str, optional
        PETSc options with this prefix reach the linear solver, with ``snes_`` in addition SNES.

    Raises
    ------
    InputError
        If an option is unknown, `bc` and `bc0` fix different degrees of freedom, or `is_fwd_linear` is True and the
        form is not linear in u.

    Attributes
    ----------
    report : SolveReport or None
        What the last forward solve did; None before the first.
    new_solver : callable
        Makes another `LinearSolver` of the kind that this problem uses.
    linearization : int
        Counts calls of `setLinearizationPoint`.

    Examples
    --------
    Change ``hp.PDEVariationalProblem(Vh, form, bc, bc0)`` into::

        pde = hd.AcceleratedVariationalProblem(Vh, form, bc, bc0)
    """

    _given: tuple[int, ...] = (PARAMETER,)  # variables that a forward solve takes as they are

    def __init__(
        self,
        Vh,
        varf_handler,
        bc,
        bc0,
        is_fwd_linear: bool = False,
        *,
        forward_solver: str | Callable = "newton",
        newton: NewtonOptions | None = None,
        linear_solver: str = "lu",
        lu_method: str | None = None,
        linear_tolerance: float = 1e-12,
        options_prefix: str | None = None,
    ):
        if not callable(forward_solver) and forward_solver not in FORWARD_SOLVERS:
            raise InputError(
                f"forward_solver: expected one of {FORWARD_SOLVERS} or a callable solve(problem, state, x), "
                f"got {forward_solver!r}."
            )
        self._forward_solver = forward_solver
        self._newton_options = newton or NewtonOptions()
        self._options_prefix = options_prefix
        if is_fwd_linear and linear_solver == "lu" and options_prefix is None:
            lu_method = lu_method or "mumps"  # one factorization for a forward solve and for blocks
        self.new_solver = functools.partial(
            LinearSolver,
            Vh[STATE].mesh().mpi_comm(),
            linear_solver,
            lu_method=lu_method,
            tolerance=linear_tolerance,
            options_prefix=options_prefix,
        )
        # not hIPPYlib's constructor: it sets A, C and the solvers to None, which here are made when asked for
        self.Vh = Vh
        self._is_fwd_linear = bool(is_fwd_linear)
        self.n_calls = dict.fromkeys(("forward", "adjoint", "incremental_forward", "incremental_adjoint"), 0)
        self.report: SolveReport | None = None
        self.linearization = 0
        self._solver = self.new_solver()
        self.varf_handler, self.bc, self.bc0 = varf_handler, bc, bc0
        self._check_linear()

    @classmethod
    def from_problem(cls, problem: hp.PDEVariationalProblem, **options) -> AcceleratedVariationalProblem:
        """The accelerated version of an existing problem.

        A `solveFwd` of its own class, or, of a linear problem, a solver in its attribute ``solver``, goes on doing
        the forward solves, on `problem`; then only the linearisation is accelerated.  Incremental solvers of
        `problem` are replaced by ``linear_solver``.

        Parameters
        ----------
        problem : hp.PDEVariationalProblem
        **options
            Keyword arguments of this class.

        Raises
        ------
        InputError
            If the class of `problem` overrides how hIPPYlib linearises, which would be lost.
        """
        kind = type(problem)
        if not isinstance(problem, hp.PDEVariationalProblem):
            raise InputError(f"problem: expected an hp.PDEVariationalProblem, got {kind.__name__}.")
        stock = AcceleratedVariationalProblem if isinstance(problem, cls) else hp.PDEVariationalProblem
        lost = [
            name
            for name in ("solveAdj", "evalGradientParameter", "setLinearizationPoint", "solveIncremental", "apply_ij")
            if getattr(kind, name) is not getattr(stock, name)
        ]
        if lost:
            raise InputError(
                f"problem: {kind.__name__} has its own {', '.join(lost)}, which the accelerated problem would not "
                "call. Use it as it is, or derive its class from hd.AcceleratedVariationalProblem."
            )
        # hIPPYlib uses it in linear forward solves alone
        own_solver = problem.solver is not None and not isinstance(problem.solver, dl.PETScLUSolver)
        own_solver = own_solver and problem.is_fwd_linear
        if kind.solveFwd is not stock.solveFwd or own_solver:
            options.setdefault("forward_solver", lambda _, state, x: problem.solveFwd(state, x))
        return cls(
            problem.Vh, problem.varf_handler, problem.bc, problem.bc0, is_fwd_linear=problem.is_fwd_linear, **options
        )

    # ---- what hIPPYlib keeps in attributes ----------------------------------------------

    @property
    def varf_handler(self) -> Callable:
        """The weak form ``(u, m, p) -> form``."""
        return self._varf_handler

    @varf_handler.setter
    def varf_handler(self, value: Callable) -> None:
        self._varf_handler = value
        self._forget()

    @property
    def is_fwd_linear(self) -> bool:
        """Whether the form is affine in the state."""
        return self._is_fwd_linear

    @is_fwd_linear.setter
    def is_fwd_linear(self, value: bool) -> None:
        self._is_fwd_linear = bool(value)
        self._forget()

    def _check_linear(self) -> None:
        """Raise `InputError` if the form is not what `is_fwd_linear` says."""
        if self.is_fwd_linear:
            state, parameter = (dl.Function(self.Vh[i]) for i in (STATE, PARAMETER))
            test = dl.TestFunction(self.Vh[ADJOINT])
            check_linear(self.varf_handler(state, parameter, test, *self._symbols()), state)

    def _symbols(self) -> list:
        """Arguments of the handler beside u, m and p."""
        return []

    @property
    def bc(self) -> list:
        """Boundary conditions of the state."""
        return self._bc

    @bc.setter
    def bc(self, value) -> None:
        self._bc = [value] if isinstance(value, dl.DirichletBC) else value
        self._forget()

    @property
    def bc0(self) -> list:
        """Boundary conditions of increments and adjoints."""
        return self._bc0

    @bc0.setter
    def bc0(self, value) -> None:
        self._bc0 = [value] if isinstance(value, dl.DirichletBC) else value
        self._forget()

    def _forget(self) -> None:
        self._compiled: CompiledForms | None = None
        self._point: dict[int, dl.GenericVector] | None = None
        self._loaded: dict[int, dl.GenericVector] | None = None
        self._gauss_newton = True  # no second derivatives before they are asked for
        self._solver.destroy()
        self._solver = self.new_solver()
        self._factored = 0

    @property
    def _forms(self) -> CompiledForms:
        if self._compiled is None:
            forms = self._new_forms()
            if not (forms.bcs_agree or callable(self._forward_solver)):
                raise InputError(
                    "bc, bc0: expected conditions on the same degrees of freedom, got different ones. "
                    "Use hp.PDEVariationalProblem, which keeps a matrix for each."
                )
            self._compiled = forms
        return self._compiled

    def _new_forms(self) -> CompiledForms:
        return CompiledForms(self.Vh, self.varf_handler, self.bc, self.bc0, linear=self.is_fwd_linear)

    def _refresh(self) -> CompiledForms:
        """The forms, built anew if what the user gave has changed in more than values."""
        if self._compiled is not None and not self._compiled.source.is_current():
            self._forget()
        return self._forms

    @property
    def source(self) -> Source:
        """What the present forms are made from; another object once they had to be built anew."""
        return self._refresh().source

    A = property(lambda self: self._matrix("A"), doc="d residual/du at the linearisation point.")
    C = property(lambda self: self._matrix("C"), doc="d residual/dm at the linearisation point.")
    Wuu = property(lambda self: self._second("Wuu"), doc="Second derivative in u, u; None for Gauss-Newton.")
    Wmu = property(lambda self: self._second("Wmu"), doc="Second derivative in m, u; None for Gauss-Newton.")
    Wmm = property(lambda self: self._second("Wmm"), doc="Second derivative in m, m; None for Gauss-Newton.")

    @property
    def At(self) -> dl.PETScMatrix | None:
        """The transpose of A as a new matrix; solves do not need it."""
        A = self.A
        return None if A is None else dl.PETScMatrix(A.mat().transpose(PETSc.Mat()))

    def _matrix(self, name: str) -> dl.PETScMatrix | None:
        return None if self._point is None else self._linearized(name).tensor

    def _linearized(self, name: str) -> CachedTensor:
        self._load(self._linearization_point())
        if not self._forms.source.agrees(self._values_at_point):
            raise InputError(
                "setLinearizationPoint: a coefficient of the form has changed since it was called, and the problem at "
                "that point is no longer there. Call it again (model.jacobian(m), model.linearize(m)) after changes."
            )
        return self._forms.update(getattr(self._forms, name))

    def _linearization_point(self) -> dict[int, dl.GenericVector]:
        if self._point is None:
            raise InputError("setLinearizationPoint: expected a call before matrices and incremental solves.")
        return self._point

    def _second(self, name: str) -> dl.PETScMatrix | None:
        return None if self._gauss_newton else self._matrix(name)

    def _refuse_solver(self, value) -> None:
        raise InputError(
            "solver, solver_fwd_inc, solver_adj_inc: an accelerated problem has one solver for all directions. "
            "Choose it by the arguments linear_solver, lu_method, options_prefix, or forward_solver."
        )

    solver = solver_fwd_inc = solver_adj_inc = property(lambda self: None, _refuse_solver)

    @property
    def n_assemblies(self) -> dict[str, int]:
        """How often residual, A and C were assembled, and A factored, since the forms were built."""
        forms = self._forms
        return {
            "residual": forms.n_residuals,
            "A": forms.A.n_assemblies,
            "C": forms.C.n_assemblies,
            "factorization": self._solver.n_factorizations,
        }

    # ---- forward ------------------------------------------------------------------------

    def solveFwd(self, state: dl.GenericVector, x: list) -> None:
        """Write the state at ``x[hp.PARAMETER]`` into `state`, from the guess ``x[hp.STATE]`` if nonlinear.

        Raises
        ------
        ForwardSolveError
            If the solve does not converge or gives values that are not finite.
        """
        self.n_calls["forward"] += 1
        self.report = None
        if callable(self._forward_solver):
            self._forward_solver(self, state, x)
            return
        self._refresh()
        self._loaded = None
        for i in self._given:
            self._forms.load(i, self._variable(x, i))
        u = self.generate_state()
        try:
            if self.is_fwd_linear:
                self.report = self._solve_linear(u)
            else:
                u.axpy(1.0, x[STATE])
                solve = self._newton().solve if self._forward_solver == "newton" else self._solve_snes
                self.report = solve(u)
        except ForwardSolveError as error:
            self.report = error.report
            raise
        state.zero()
        state.axpy(1.0, u)

    def _residual(self, u: dl.GenericVector, out: dl.GenericVector) -> None:
        self._forms.load(STATE, u)
        self._forms.residual(out)

    def _linearize(self, u: dl.GenericVector) -> None:
        self._forms.load(STATE, u)
        self._factor()

    def _factor(self) -> LinearSolver:
        """The solver of A at the loaded point."""
        A = self._forms.update(self._forms.A)
        if A.n_assemblies != self._factored:
            self._solver.set_operator(A.mat)
            self._factored = A.n_assemblies
        return self._solver

    def _newton(self) -> Newton:
        return Newton(self._residual, self._linearize, self._solver.solve, self._newton_options)

    def _solve_linear(self, u: dl.GenericVector) -> SolveReport:
        """One Newton step from zero, whatever the guess."""
        before = self._solver.n_factorizations
        b = u.copy()
        self._residual(u, b)
        report = functools.partial(SolveReport, residual_assemblies=1, increment=1.0)
        try:
            self._factor().solve(u, b)
        except SolveError as error:
            raise ForwardSolveError(str(error), report(iterations=0, factorizations=1, reason=str(error))) from error
        u *= -1.0
        factorizations = self._solver.n_factorizations - before
        if not np.isfinite(u.norm("l2")):
            reason = "the solution is not finite (NaN or infinity)"
            raise ForwardSolveError(reason, report(iterations=1, factorizations=factorizations, reason=reason))
        return report(iterations=1, factorizations=factorizations, reason="linear problem")

    def _solve_snes(self, u: dl.GenericVector) -> SolveReport:
        forms, out = self._forms, u.copy()
        before = forms.n_residuals, forms.A.n_assemblies

        def load(X: PETSc.Vec) -> None:
            set_owned_values(u, X.getArray(readonly=True))
            forms.load(STATE, u)

        def residual(_, X: PETSc.Vec, F: PETSc.Vec) -> None:
            load(X)
            forms.residual(out)
            F.getArray()[:] = owned_values(out)

        def jacobian(_, X: PETSc.Vec, *__) -> None:
            load(X)
            self._factor()

        load_now = owned_values(u)
        forms.load(STATE, u)
        self._factor()
        X, F = forms.A.mat.createVecs()
        X.getArray()[:] = load_now
        snes = PETSc.SNES().create(u.mpi_comm())
        snes.setFunction(residual, F)
        snes.setJacobian(jacobian, forms.A.mat)
        snes.setKSP(self._solver.ksp)
        # the step measures the error before it; quadratic convergence makes the error after it about 1e-16
        options = self._newton_options
        snes.setTolerances(rtol=1e-15, atol=1e-50, stol=1e-8, max_it=options.max_iterations)
        snes.setOptionsPrefix(self._options_prefix or "")
        snes.setFromOptions()
        try:
            snes.solve(None, X)
            code, iterations = snes.getConvergedReason(), snes.getIterationNumber()
            step = snes.getSolutionUpdate().norm() / max(X.norm(), 1e-300)
        except PETSc.Error:
            code, iterations, step = -3, snes.getIterationNumber(), np.inf
        set_owned_values(u, X.getArray(readonly=True))
        for thing in (snes, X, F):
            thing.destroy()
        report = SolveReport(
            iterations, forms.n_residuals - before[0], forms.A.n_assemblies - before[1], _SNES_REASONS[code], step
        )
        if code <= 0 or not np.isfinite(u.norm("l2")):
            raise ForwardSolveError(f"SNES stopped after {iterations} iterations: {report.reason}.", report)
        return report

    # ---- adjoint, gradient, linearisation -----------------------------------------------

    def _variable(self, x: list, i: int) -> dl.GenericVector:
        """Variable `i` of a point."""
        return x[i]

    def _load(self, point: dict[int, dl.GenericVector]) -> None:
        """Make `point`, vectors by variable, the one at which everything is assembled."""
        if self._loaded is not point:
            for i, x in point.items():
                self._forms.load(i, x)
            self._loaded = point

    def solveAdj(self, adj: dl.GenericVector, x: list, adj_rhs: dl.GenericVector) -> None:
        self.n_calls["adjoint"] += 1
        self._refresh()
        self._load({i: self._variable(x, i) for i in (STATE, *self._given)})
        # what acts on fixed degrees of freedom must not reach the gradient, as it does in hIPPYlib's
        rhs = adj_rhs.copy()
        rhs *= self._forms.free
        self._factor().solve_transposed(adj, rhs)

    def evalGradientParameter(self, x: list, out: dl.GenericVector) -> None:
        self._refresh()
        self._load({i: self._variable(x, i) for i in (STATE, *self._given, ADJOINT)})
        self._forms.gradient(out)

    def setLinearizationPoint(self, x: list, gauss_newton_approx: bool) -> None:
        self.linearization += 1
        self._values_at_point = self._refresh().source.values()
        self._gauss_newton = gauss_newton_approx
        self._point = {i: self._variable(x, i).copy() for i in (STATE, *self._given, ADJOINT)}

    def solveIncremental(self, out: dl.GenericVector, rhs: dl.GenericVector, is_adj: bool) -> None:
        self.n_calls["incremental_adjoint" if is_adj else "incremental_forward"] += 1
        solver = self.linearized_solver()
        (solver.solve_transposed if is_adj else solver.solve)(out, rhs)

    def solve_block(self, rhs: PETSc.Mat, *, is_adj: bool) -> PETSc.Mat:
        """Incremental solves for all columns of a dense matrix (dU, k) at once.

        Raises
        ------
        SolveError
            If a solve fails.
        """
        self.n_calls["incremental_adjoint" if is_adj else "incremental_forward"] += rhs.getSize()[1]
        return self.linearized_solver().solve_block(rhs, transposed=is_adj)

    def solve_rows(self, B: PETSc.Mat) -> PETSc.Mat:
        """Adjoint incremental solves A⁻ᵀ Bᵀ, dense (dU, k), for the rows of a sparse observation operator B (k, dU).

        Raises
        ------
        SolveError
            If a solve fails.
        """
        self.n_calls["incremental_adjoint"] += B.getSize()[0]
        return self.linearized_solver().solve_rows(B)

    def linearized_solver(self) -> LinearSolver:
        """The solver of A at the linearisation point; valid until something else is assembled."""
        self._linearized("A")
        return self._factor()

    def parameter_derivative(self) -> PETSc.Mat:
        """C (dU, dM) at the linearisation point, as PETSc's matrix; valid until something else is assembled."""
        return self._linearized("C").mat

    def apply_ij(self, i: int, j: int, dir: dl.GenericVector, out: dl.GenericVector) -> None:
        name = _BLOCKS[max(i, j), min(i, j)]
        matrix = self._second(name) if name.startswith("W") else self._matrix(name)
        if matrix is None:
            out.zero()
        elif i >= j:
            matrix.mult(dir, out)
        else:
            matrix.transpmult(dir, out)

    def apply_ijk(
        self, i: int, j: int, k: int, x: list, jdir: dl.GenericVector, kdir: dl.GenericVector, out: dl.GenericVector
    ) -> None:
        forms = self._refresh()
        variables = [hp.vector2Function(x[n], self.Vh[n]) for n in (STATE, PARAMETER, ADJOINT)]
        form = forms.lagrangian(*variables)
        for n, direction in ((j, jdir), (k, kdir)):
            form = dl.derivative(form, variables[n], hp.vector2Function(direction, self.Vh[n]))
        form = expanded(form, variables[i], dl.TestFunction(self.Vh[i]))
        out.zero()
        if not form.empty():
            dl.assemble(form, tensor=out)
        if i in (STATE, ADJOINT):
            out *= forms.free

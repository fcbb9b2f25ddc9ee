import dolfin as dl
import numpy as np
import pytest
from petsc4py import PETSc

import hippylib_dino as hd
from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.modeling import LinearSolver
from hippylib_dino.modeling.linear_solver import MANY
from hippylib_dino.modeling.spaces import owned_values, set_owned_values

OPTIONS = (
    {},
    {"lu_method": "mumps"},
    {"lu_method": "petsc"},
    {"method": "krylov", "tolerance": 1e-13},
)


def convection(cells=8, speed=10.0):
    """A nonsymmetric matrix and its space."""
    space = dl.FunctionSpace(dl.UnitSquareMesh(hd.sample_communicator(), cells, cells), "Lagrange", 1)
    u, v = dl.TrialFunction(space), dl.TestFunction(space)
    A = dl.PETScMatrix(space.mesh().mpi_comm())
    dl.assemble((dl.inner(dl.grad(u), dl.grad(v)) + speed * u.dx(0) * v + u * v) * dl.dx, tensor=A)
    return A, space


def block(values):
    matrix = PETSc.Mat().createDense(values.shape, comm=PETSc.COMM_SELF)
    matrix.setUp()
    matrix.getDenseArray()[:] = values
    matrix.assemble()
    return matrix


@pytest.mark.parametrize("options", OPTIONS)
def test_solves_in_both_directions_for_vectors_and_blocks(options, rng):
    A, space = convection()
    dense = A.array()
    solver = LinearSolver(A.mpi_comm(), **options)
    solver.set_operator(A)
    rhs = rng.standard_normal((len(dense), 7))
    x, b = dl.Function(space).vector(), dl.Function(space).vector()
    set_owned_values(b, rhs[:, 0])
    for matrix, transposed, solve in ((dense, False, solver.solve), (dense.T, True, solver.solve_transposed)):
        exact = np.linalg.solve(matrix, rhs)
        solve(x, b)
        np.testing.assert_allclose(owned_values(x), exact[:, 0], rtol=0, atol=1e-9 * np.abs(exact).max())
        X = solver.solve_block(block(rhs), transposed=transposed).getDenseArray()
        np.testing.assert_allclose(X, exact, rtol=0, atol=1e-9 * np.abs(exact).max())
    solve_again = owned_values(x)
    solver.solve_transposed(x, b)  # a block solve leaves no switch behind
    np.testing.assert_allclose(owned_values(x), solve_again, rtol=0, atol=1e-12)


def test_one_factorization_for_all_solves_until_the_values_change(rng):
    A, space = convection()
    solver = LinearSolver(A.mpi_comm())
    solver.set_operator(A)
    assert solver.n_factorizations == 0
    x, b = dl.Function(space).vector(), dl.Function(space).vector()
    set_owned_values(b, rng.standard_normal(b.local_size()))
    for _ in range(2):
        solver.solve(x, b)
        solver.solve_transposed(x, b)
        solver.solve_block(block(owned_values(b)[:, None]), transposed=True)
    assert solver.n_factorizations == 1
    before = owned_values(x)
    A *= 2.0
    solver.set_operator(A)
    solver.solve_transposed(x, b)
    np.testing.assert_allclose(owned_values(x), before / 2, rtol=1e-12)
    assert solver.n_factorizations == 2


def test_krylov_that_does_not_converge_names_the_reason(rng):
    A, space = convection(cells=24)
    solver = LinearSolver(A.mpi_comm(), "krylov", max_iterations=1)
    solver.set_operator(A)
    x, b = dl.Function(space).vector(), dl.Function(space).vector()
    set_owned_values(b, rng.standard_normal(b.local_size()))
    with pytest.raises(SolveError, match=r"failed after 1 iterations: (DIVERGED_MAX_IT|DIVERGED_ITS)\."):
        solver.solve(x, b)


def test_matrix_without_inverse_is_an_error_and_the_next_one_is_solved(rng):
    A, space = convection()
    good = A.copy()
    solver = LinearSolver(A.mpi_comm())
    b = block(rng.standard_normal((space.dim(), 3)))
    solver.set_operator(A)
    A *= np.nan
    with pytest.raises(SolveError):
        solver.solve_block(b)
    A.zero()
    A.axpy(1.0, good, True)
    solver.set_operator(A)
    np.testing.assert_allclose(good.array() @ solver.solve_block(b).getDenseArray(), b.getDenseArray(), atol=1e-10)


def test_unknown_direct_solver_is_named():
    A, _ = convection()
    solver = LinearSolver(A.mpi_comm(), lu_method="nonesuch")
    solver.set_operator(A)
    with pytest.raises(InputError, match="lu_method: expected a direct solver of this PETSc, got 'nonesuch'"):
        solver.factor()


def test_petsc_options_reach_the_solver():
    A, _ = convection()
    options = PETSc.Options()
    options["test_linear_solver_pc_factor_mat_solver_type"] = "mumps"
    try:
        solver = LinearSolver(A.mpi_comm(), options_prefix="test_linear_solver_")
    finally:
        options.delValue("test_linear_solver_pc_factor_mat_solver_type")
    assert solver.ksp.getPC().getFactorSolverType() == "mumps"


def test_memory_stays_flat_over_many_factorizations(run_python):
    """In a process of its own: sizes of resident memory after 50 and 350 linearisations, in MiB."""
    code = """
import resource
import numpy as np
import hippylib_dino as hd
from tests import problems
model = problems.confusion(hd.sample_communicator())
m = hd.data.draw_parameter(model.prior, 0, 0)
def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize() / 2**20
for i in range(351):
    m *= 0.9999
    model.linearize(m)[1].owned_rows()
    if i in (50, 350):
        print(resident())
"""
    early, late = map(float, run_python(code).stdout.split())
    assert late < early + 5.0


@pytest.mark.parametrize("options", [*OPTIONS, {"lu_method": "umfpack"}])
def test_sparse_rows_equal_a_dense_block(options, rng):
    """MUMPS takes sparse right-hand sides as they are, the others a dense block; one factorization in any case."""
    A, _ = convection()
    n = A.size(0)
    B = PETSc.Mat().createAIJ((40, n), nnz=3, comm=PETSc.COMM_SELF)
    for i in range(40):
        for j in rng.choice(n, size=3, replace=False):
            B.setValue(i, int(j), rng.standard_normal())
    B.assemble()
    rows = B.convert("dense", PETSc.Mat()).getDenseArray()
    expected = np.linalg.solve(A.array().T, rows.T)
    solver = LinearSolver(A.mpi_comm(), **options)
    solver.set_operator(A)
    X = solver.solve_rows(B)
    np.testing.assert_allclose(X.getDenseArray(), expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    # a Krylov solver prepares a preconditioner for each direction
    assert solver.n_factorizations == (2 if options.get("method") == "krylov" else 1)


def test_default_takes_mumps_for_many_right_hand_sides_and_keeps_to_what_is_factored(rng):
    A, space = convection()
    many = block(rng.standard_normal((space.dim(), MANY)))
    x, b = dl.Function(space).vector(), dl.Function(space).vector()
    solver = LinearSolver(A.mpi_comm())
    solver.set_operator(A)
    assert solver.factor(MANY).getPC().getFactorSolverType() == "mumps"
    solver.solve(x, b)
    assert solver.n_factorizations == 1
    solver.set_operator(A)
    solver.solve(x, b)
    assert solver.factor(MANY).getPC().getFactorSolverType() == "umfpack"
    solver.solve_block(many, transposed=True)
    assert solver.n_factorizations == 2


@pytest.mark.parametrize("columns", [1, 3, 40])
@pytest.mark.parametrize("lu_method", [None, "mumps", "umfpack"])
def test_good_matrix_after_a_bad_one(lu_method, columns, rng):
    """Factors that failed are forgotten."""
    A, space = convection()
    good = A.copy()
    solver = LinearSolver(A.mpi_comm(), lu_method=lu_method)
    rhs = rng.standard_normal((space.dim(), columns))
    for broken in (np.nan, 0.0):
        bad = A.mat().copy()
        bad.scale(broken)
        solver.set_operator(bad)
        with pytest.raises(SolveError):
            solver.solve_block(block(rhs), transposed=True)
        solver.set_operator(good)
        X = solver.solve_block(block(rhs), transposed=True).getDenseArray()
        np.testing.assert_allclose(good.array().T @ X, rhs, atol=1e-9)

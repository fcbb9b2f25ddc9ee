import dolfin as dl
import numpy as np
import pytest
from mpi4py import MPI

from hippylib_dino.modeling.spaces import DofOrder, map_block, owned_values, set_owned_values
from tests.problems import Torus


@pytest.mark.parametrize("kind", ["P1", "P2", "vector", "mixed", "real", "multiplier", "torus"])
def test_canonical_order_is_a_permutation_sorted_by_component_and_point(kind):
    mesh = dl.UnitSquareMesh(MPI.COMM_SELF, 4, 3)
    cell = mesh.ufl_cell()
    taylor_hood = dl.MixedElement([dl.VectorElement("Lagrange", cell, 2), dl.FiniteElement("Lagrange", cell, 1)])
    space = {
        "P1": lambda: dl.FunctionSpace(mesh, "Lagrange", 1),
        "P2": lambda: dl.FunctionSpace(mesh, "Lagrange", 2),
        "vector": lambda: dl.VectorFunctionSpace(mesh, "Lagrange", 1),
        "mixed": lambda: dl.FunctionSpace(mesh, taylor_hood),
        "multiplier": lambda: dl.FunctionSpace(mesh, dl.MixedElement([taylor_hood, dl.FiniteElement("R", cell, 0)])),
        "torus": lambda: dl.FunctionSpace(mesh, taylor_hood, constrained_domain=Torus()),
        "real": lambda: dl.VectorFunctionSpace(mesh, "Real", 0, dim=3),
    }[kind]()
    order = DofOrder(space)
    assert sorted(order.owned) == list(range(space.dim()))
    keys = [tuple(row) for row in np.round(order.coordinates, 9)]
    assert keys == sorted(keys)
    rows = np.random.default_rng(0).standard_normal((space.dim(), 2))
    np.testing.assert_array_equal(order.from_array(order.to_array(rows)), rows)
    if kind == "torus":  # of the points that a degree of freedom stands for the least
        assert np.all(order.coordinates[:, 1:] < 1.0 - 1e-9)


def test_canonical_order_gives_a_function_the_same_array_on_every_partition(run_python, tmp_path):
    code = f"""
import dolfin as dl, numpy as np
from mpi4py import MPI
from hippylib_dino.modeling.spaces import DofOrder, owned_values
space = dl.VectorFunctionSpace(dl.UnitSquareMesh(MPI.COMM_WORLD, 5, 4), "Lagrange", 2)
f = dl.interpolate(dl.Expression(("sin(3*x[0])+x[1]", "x[0]*x[1]"), degree=2), space)
whole = DofOrder(space).to_array(owned_values(f.vector()))
if MPI.COMM_WORLD.rank == 0:
    np.save({str(tmp_path)!r} + f"/{{MPI.COMM_WORLD.size}}.npy", whole)
"""
    for ranks in (1, 2, 3):
        run_python(code, ranks=ranks)
    one = np.load(tmp_path / "1.npy")
    for ranks in (2, 3):
        np.testing.assert_allclose(np.load(tmp_path / f"{ranks}.npy"), one, atol=1e-14)


def test_data_vectors_keep_their_order_on_two_ranks(run_python):
    """dolfin's get_local permutes a vector that carries the observation operator's local numbering."""
    code = """
import dolfin as dl, hippylib as hp, numpy as np
from mpi4py import MPI
from hippylib_dino.modeling.spaces import gather, owned_values, set_owned_values
space = dl.FunctionSpace(dl.UnitSquareMesh(MPI.COMM_WORLD, 6, 6), "Lagrange", 1)
points = np.random.default_rng(0).uniform(0.1, 0.9, (20, 2))
B = hp.assemblePointwiseObservation(space, points)
u = dl.interpolate(dl.Expression("x[0] + 10*x[1]", degree=1), space).vector()
q = dl.Vector(B.mpi_comm())
B.init_vector(q, 0)
B.mult(u, q)
np.testing.assert_allclose(gather(owned_values(q), MPI.COMM_WORLD), points @ [1.0, 10.0], atol=1e-12)
first, last = q.local_range()
set_owned_values(q, np.arange(20.0)[first:last])
np.testing.assert_array_equal(gather(owned_values(q), MPI.COMM_WORLD), np.arange(20.0))
"""
    run_python(code, ranks=2)


def test_returned_values_are_the_callers():
    vector = dl.Vector(MPI.COMM_SELF, 3)
    set_owned_values(vector, np.array([1.0, 2.0, 3.0]))
    values = owned_values(vector)
    values[:] = 0.0
    np.testing.assert_array_equal(owned_values(vector), [1.0, 2.0, 3.0])


def test_map_block_applies_to_every_column():
    like = dl.Vector(MPI.COMM_SELF, 3)

    def double(out, x):
        out.zero()
        out.axpy(2.0, x)

    block = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(map_block(double, like, like, block), 2 * block)

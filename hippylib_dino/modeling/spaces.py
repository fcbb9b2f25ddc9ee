"""Finite element vectors and NumPy arrays: the only border between dolfin and NumPy.

Stored arrays use the *canonical order* of degrees of freedom, sorted by coordinates and component,
which does not depend on how the mesh is partitioned or numbered.  A rank holds the rows of the
degrees of freedom it owns; `owned` lists their canonical positions.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

import dolfin as dl
import numpy as np
from mpi4py import MPI
from petsc4py import PETSc

from hippylib_dino.errors import InputError, VectorError


def owned_values(vector: dl.GenericVector) -> np.ndarray:
    """Copy of the entries of `vector` that this rank owns, in global order, shape (n_owned,).

    Not dolfin's `get_local`: on several ranks a data vector carries the local numbering of hIPPYlib's
    observation operator, in which `get_local` and `set_local` permute its entries.
    """
    vec = dl.as_backend_type(vector).vec()
    values = vec.getArray(readonly=True).copy()
    vec.destroy()  # this reference to the vector; left to petsc4py it would stay in memory
    return values


def set_owned_values(vector: dl.GenericVector, values: np.ndarray) -> None:
    """Write the entries of `vector` that this rank owns, in global order; `values` has shape (n_owned,)."""
    vec = dl.as_backend_type(vector).vec()
    vec.getArray()[:] = values
    vec.destroy()
    vector.apply("insert")


def check_vector(vector: dl.GenericVector, like: dl.GenericVector, name: str) -> None:
    """Raise `VectorError` unless `vector` has the size, partition and communicator of `like`."""
    if MPI.Comm.Compare(vector.mpi_comm(), like.mpi_comm()) not in (MPI.IDENT, MPI.CONGRUENT):
        raise VectorError(
            f"{name}: the vector lives on another MPI communicator ({vector.mpi_comm().size} ranks) "
            f"than the problem ({like.mpi_comm().size} ranks). Build mesh and vectors on one communicator."
        )
    if (vector.size(), vector.local_size()) != (like.size(), like.local_size()):
        raise VectorError(
            f"{name}: expected a vector of size {like.size()} ({like.local_size()} on this rank), "
            f"got size {vector.size()} ({vector.local_size()}). "
            "Make it with model.generate_vector(hp.PARAMETER) or hp.STATE of the same model."
        )


def gather(values: np.ndarray, comm: MPI.Comm) -> np.ndarray:
    """Concatenate the owned pieces of all ranks, in rank order, along the first axis."""
    return values.copy() if comm.size == 1 else np.concatenate(comm.allgather(values))


def on_all(comm: MPI.Comm, local: bool) -> bool:
    """Whether `local` holds on all ranks."""
    return local if comm.size == 1 else comm.allreduce(local, op=MPI.LAND)


def sum_over_ranks(local: np.ndarray, comm: MPI.Comm) -> np.ndarray:
    """Sum of every rank's array, on every rank; the array itself where there is one rank."""
    return local if comm.size == 1 else comm.allreduce(local)


class DofOrder:
    """Canonical order of the degrees of freedom of a function space.

    Parameters
    ----------
    space : dolfin.FunctionSpace

    Raises
    ------
    InputError
        On a partitioned mesh, if degrees of freedom cannot be told apart (discontinuous elements).

    Attributes
    ----------
    comm : MPI.Comm
    dim : int
        Global number of degrees of freedom.
    owned : ndarray of int, (n_owned,)
        Canonical position of each degree of freedom that this rank owns, in dolfin's local order.
    coordinates : ndarray, (dim, 1 + geometric dimension)
        Component number and coordinates of every degree of freedom, in canonical order.  One that a periodic domain
        ties to others has the least of their points; a Real, which sits nowhere, the least of the others' coordinates.
    """

    def __init__(self, space: dl.FunctionSpace):
        self.comm = space.mesh().mpi_comm()
        first, last = space.dofmap().ownership_range()
        self.dim = space.dim()
        everyone = gather(self._keys(space, first, last), self.comm)
        # a Real sits nowhere: with the least of the others, whatever cell dolfin takes it from
        nowhere = np.isnan(everyone)
        everyone = np.where(nowhere, np.where(nowhere, np.inf, everyone).min(axis=0), everyone)
        everyone[~np.isfinite(everyone)] = 0.0
        digits = _digits(everyone)  # lexsort's last key is the primary one: component first, then x, y, z
        if self.comm.size > 1 and len(np.unique(digits, axis=0)) < self.dim:
            raise InputError(
                f"space: {space.ufl_element()} has several degrees of freedom at one point, whose order depends on the "
                "partition of the mesh. Use a continuous space, or one rank a sample."
            )
        order = np.lexsort(digits.T[::-1])
        position = np.empty(self.dim, dtype=np.int64)
        position[order] = np.arange(self.dim)
        self.owned = position[first:last]
        self.coordinates = everyone[order]

    @staticmethod
    def _keys(space: dl.FunctionSpace, first: int, last: int) -> np.ndarray:
        """(n_owned, 1 + gdim): component and coordinates of the owned degrees of freedom, NaN for those of a Real."""
        gdim = space.mesh().geometry().dim()
        keys = np.zeros((last - first, 1 + gdim))
        if space.ufl_element().family() == "Real":  # no coordinates: numbered as dolfin does
            keys[:, 0] = np.arange(first, last)
            return keys
        if space.dofmap().constrained_domain is None:
            keys[:, 1:] = space.tabulate_dof_coordinates().reshape(-1, gdim)
        else:
            keys[:, 1:] = _least_points(space)[first:last]

        def label(subspace: dl.FunctionSpace, component: int) -> int:
            if subspace.num_sub_spaces() == 0:
                dofs = np.asarray(subspace.dofmap().dofs(), dtype=np.int64)  # of an empty list NumPy makes floats
                own = dofs[(dofs >= first) & (dofs < last)] - first
                keys[own, 0] = component
                if subspace.ufl_element().family() == "Real":
                    keys[own, 1:] = np.nan
                return component + 1
            for i in range(subspace.num_sub_spaces()):
                component = label(subspace.sub(i), component)
            return component

        label(space, 0)
        return keys

    def to_array(self, owned_rows: np.ndarray) -> np.ndarray:
        """All rows in canonical order, the same on every rank, from this rank's rows (n_owned, ...)."""
        rows, positions = gather(owned_rows, self.comm), gather(self.owned, self.comm)
        out = np.empty_like(rows)
        out[positions] = rows
        return out

    def from_array(self, array: np.ndarray) -> np.ndarray:
        """This rank's rows (n_owned, ...) of an array (dim, ...) in canonical order."""
        return np.asarray(array)[self.owned]


def _digits(points: np.ndarray) -> np.ndarray:
    """Points (n, k) in units of their bounding box, without what differs by rounding."""
    span = np.maximum(np.ptp(points, axis=0), 1e-300)
    return np.round((points - points.min(axis=0)) / span, 9)


def _least_points(space: dl.FunctionSpace) -> np.ndarray:
    """Where the degrees of freedom of a space with a periodic domain sit, (dim, gdim), in dolfin's global order.

    One that stands for several points of the mesh gets the least of them, by x, then y, then z.  dolfin's own
    `tabulate_dof_coordinates` has the point of some cell, another one on each partition.
    """
    dofmap, element, mesh = space.dofmap(), space.element(), space.mesh()
    to_global = np.asarray(dofmap.tabulate_local_to_global_dofs(), dtype=np.int64)
    cells = list(dl.cells(mesh))
    dofs = to_global[np.array([dofmap.cell_dofs(cell.index()) for cell in cells], dtype=np.int64).ravel()]
    points = np.array([element.tabulate_dof_coordinates(cell) for cell in cells], dtype=float)
    points = points.reshape(len(dofs), mesh.geometry().dim())
    _, first = np.unique(np.column_stack([dofs, points]), axis=0, return_index=True)  # most are of several cells
    dofs, points = gather(dofs[first], mesh.mpi_comm()), gather(points[first], mesh.mpi_comm())
    order = np.lexsort([*_digits(points).T[::-1], dofs])
    _, least = np.unique(dofs[order], return_index=True)
    return points[order][least]


def dense_matrix(like: dl.GenericVector, owned: np.ndarray) -> PETSc.Mat:
    """A dense PETSc matrix, rows partitioned as `like`, from this rank's rows (n_owned, k); the caller destroys it."""
    size = ((like.local_size(), like.size()), (PETSc.DECIDE, owned.shape[1]))
    matrix = PETSc.Mat().createDense(size, comm=like.mpi_comm())
    matrix.setUp()
    matrix.getDenseArray()[:] = owned
    matrix.assemble()
    return matrix


def dense_product(matrix: PETSc.Mat, block: PETSc.Mat, transposed: bool = False) -> np.ndarray:
    """A sparse matrix, or its transpose, times a dense one: the owned rows, (n_owned, c)."""
    result = matrix.transposeMatMult(block) if transposed else matrix.matMult(block)
    values = result.getDenseArray().copy()
    result.destroy()
    return values


def destroy_with(owner: object, comm: MPI.Comm, *objects: PETSc.Object) -> None:
    """Destroy PETSc objects when `owner` is dropped.

    Where a petsc4py object is the last reference and goes out of scope, petsc4py keeps what it refers to until
    `PETSc.garbage_cleanup`, and for good once the mesh, and with it the communicator, is gone.  On several ranks that
    is as it must be: to destroy is collective, and their garbage collectors do not run at the same time.
    """
    if comm.size == 1:
        weakref.finalize(owner, _destroy, objects).atexit = False


def _destroy(objects: Iterable[PETSc.Object]) -> None:
    for each in objects:
        each.destroy()


def map_block(apply: Callable, like_in: dl.GenericVector, like_out: dl.GenericVector, block: np.ndarray) -> np.ndarray:
    """Apply a vector operation to every column of a block of owned rows.

    Parameters
    ----------
    apply : callable ``apply(out, x)`` on dolfin vectors, the argument order of hIPPYlib's solvers.
    like_in, like_out : vectors of the layout of ``x`` and ``out``.
    block : (n_owned_in, k)

    Returns
    -------
    ndarray, (n_owned_out, k)
    """
    x, out = like_in.copy(), like_out.copy()
    result = np.empty((out.local_size(), block.shape[1]))
    for j in range(block.shape[1]):
        set_owned_values(x, block[:, j])
        apply(out, x)
        result[:, j] = owned_values(out)
    return result

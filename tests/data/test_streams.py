import gc
import weakref

import dolfin as dl
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.data.streams import _levels, noise_coordinates, noise_positions
from hippylib_dino.modeling.spaces import DofOrder, map_block, owned_values

MESHES = {
    "triangles": lambda comm: dl.UnitSquareMesh(comm, 5, 4),
    "tetrahedra": lambda comm: dl.UnitCubeMesh(comm, 3, 2, 2),
}
NAMES = [
    f"{kind} P{degree} {cells}" for kind in ("scalar", "vector", "laplacian") for degree in (1, 2) for cells in MESHES
]


def prior_named(name, comm):
    """hIPPYlib's prior `name` of NAMES, and the number of components of its noise."""
    dl.set_log_level(dl.LogLevel.ERROR)
    kind, degree, cells = name.split()
    mesh = MESHES[cells](comm)
    gdim = mesh.geometry().dim()
    if kind == "vector":
        space = dl.VectorFunctionSpace(mesh, "Lagrange", int(degree[1]))
        gamma, delta = [0.2, 0.3, 0.4][:gdim], [1.0] * gdim
        return hp.VectorBiLaplacianPrior(space, gamma, delta, robin_bc=True, solver_type="lu"), gdim
    space = dl.FunctionSpace(mesh, "Lagrange", int(degree[1]))
    if kind == "laplacian":
        return hp.LaplacianPrior(space, 0.2, 1.0, solver_type="lu"), gdim + 1
    return hp.BiLaplacianPrior(space, 0.2, 1.0, robin_bc=True, solver_type="lu"), 1


def quadrature_points(prior, components):
    """(n, 1 + gdim): component and coordinates of hIPPYlib's noise space, built again and asked for them."""
    mesh, degree = prior.Vh.mesh(), 2 * prior.Vh.ufl_element().degree()
    rule = {"degree": degree, "quad_scheme": "default"}
    element = dl.FiniteElement("Quadrature", mesh.ufl_cell(), **rule)
    if components > 1:
        element = dl.VectorElement("Quadrature", mesh.ufl_cell(), dim=components, **rule)
    space = dl.FunctionSpace(mesh, element)
    return DofOrder._keys(space, 0, space.dim())


@pytest.mark.parametrize("name", NAMES)
def test_noise_sits_at_the_quadrature_points(name):
    prior, components = prior_named(name, hd.sample_communicator())
    found, points = noise_coordinates(prior), quadrature_points(prior, components)
    np.testing.assert_array_equal(found[:, 0], points[:, 0])
    located = points[:, 0] == 0 if name.startswith("laplacian") else slice(None)
    np.testing.assert_allclose(found[located, 1 : points.shape[1]], points[located, 1:], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["scalar P2 tetrahedra", "vector P1 triangles", "laplacian P2 tetrahedra"])
def test_noise_that_shares_all_keys_has_the_same_effect(name):
    """What the order leaves open does not matter: there the columns of the matrix are equal."""
    prior, _ = prior_named(name, hd.sample_communicator())
    load = prior.sqrtR if name.startswith("laplacian") else prior.sqrtM
    levels = np.column_stack([_levels(key) for key in noise_coordinates(prior).T])
    columns = load.array().T
    _, groups = np.unique(levels, axis=0, return_inverse=True)
    order = np.argsort(groups, kind="stable")
    same = np.diff(groups[order]) == 0
    gaps = np.abs(np.diff(columns[order], axis=0))[same]
    assert gaps.size == 0 or gaps.max() < 1e-12 * np.abs(columns).max()


@pytest.mark.parametrize("name", ["scalar P1 triangles", "laplacian P1 triangles"])
def test_samples_have_the_covariance_of_the_prior(name):
    prior, _ = prior_named(name, hd.sample_communicator())
    draws = np.array([owned_values(hd.data.draw_parameter(prior, 0, i)) for i in range(2000)])
    expected = map_block(prior.Rsolver.solve, prior.mean, prior.mean, np.eye(draws.shape[1]))
    error = np.linalg.norm(draws.T @ draws / len(draws) - expected) / np.linalg.norm(expected)
    assert error < 0.15


def test_positions_are_a_permutation_kept_while_the_prior_lives():
    prior, _ = prior_named("vector P2 triangles", hd.sample_communicator())
    positions, alive = noise_positions(prior), weakref.ref(prior)
    np.testing.assert_array_equal(np.sort(positions), np.arange(len(positions)))
    assert noise_positions(prior) is positions
    del prior
    gc.collect()
    assert alive() is None


def test_other_priors_keep_their_numbering():
    mesh = dl.UnitSquareMesh(hd.sample_communicator(), 2, 2)
    prior = hp.GaussianRealPrior(dl.VectorFunctionSpace(mesh, "R", 0, dim=3), np.diag([1.0, 4.0, 9.0]))
    np.testing.assert_array_equal(noise_positions(prior), [0, 1, 2])
    m = hd.data.draw_parameter(prior, 0, 5)
    numbers = hd.data.streams.stream(0, 5).standard_normal(3)
    np.testing.assert_allclose(owned_values(m), [1.0, 2.0, 3.0] * numbers)


def test_levels_join_what_differs_by_rounding():
    edge = 0.0976562485  # on the edge between two numbers of nine digits
    values = np.array([1.0, edge, np.nextafter(edge, 0), 0.5, np.nextafter(edge, 1), 0.0])
    np.testing.assert_array_equal(_levels(values), [3, 1, 1, 2, 1, 0])
    np.testing.assert_array_equal(_levels(values[[1, 2, 4]]), [0, 0, 0])  # a uniform mesh has one weight

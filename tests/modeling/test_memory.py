"""PETSc objects are given back when what made them is dropped; petsc4py would keep them for good."""

import gc
import weakref

import dolfin as dl
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.modeling import jacobian, linear_solver, time_dependent, time_observation
from hippylib_dino.modeling.spaces import owned_values
from tests import problems


@pytest.fixture
def no_collection():
    """Python's collector sees no memory of PETSc's and may wait for long: nothing may depend on it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("name", ["poisson", "accelerated_vector", "controlled"])
def test_dropped_model_leaves_nothing(name, no_collection):
    model = getattr(problems, name)(hd.sample_communicator())
    m = model.prior.mean.copy()
    J = model.jacobian(m)
    J.to_dense()
    pde, forms = model.problem, model.problem._compiled
    petsc = [forms.A.mat, forms.C.mat, pde._solver.ksp, pde._solver._for_blocks, J._B]
    assert all(each.handle != 0 for each in petsc)
    dropped = [weakref.ref(each) for each in (model, pde, forms)]
    del model, pde, forms, J
    assert [reference() for reference in dropped] == [None] * 3
    assert [each.handle for each in petsc] == [0] * len(petsc)


def test_dropped_plain_jacobian_leaves_nothing(models):
    model = problems.plain(models["vector"])
    J = model.jacobian(model.prior.mean)
    petsc = [J._B, J._kept_C]
    del J
    assert [each.handle for each in petsc] == [0, 0]


@pytest.mark.parametrize("name", ["vector", "accelerated_vector", "state", "heat"])
def test_products_with_a_jacobian_leave_nothing(models, name, monkeypatch):
    model, made = models[name], []

    def recorded(function):
        def call(*arguments, **options):
            made.append(function(*arguments, **options))
            return made[-1]

        return call

    for module in (jacobian, time_dependent, time_observation):
        monkeypatch.setattr(module, "dense_matrix", recorded(module.dense_matrix))
    monkeypatch.setattr(jacobian, "_solve", recorded(jacobian._solve))
    for method in ("solve_block", "solve_rows"):
        monkeypatch.setattr(linear_solver.LinearSolver, method, recorded(getattr(linear_solver.LinearSolver, method)))
    J = model.jacobian(model.prior.mean)
    J.mult_block(owned_values(model.prior.mean)[:, None])
    J.transpmult_block(np.ones((J.shape[0], 2)))
    if name != "state":
        J.to_dense()
    assert len(made) >= 4
    assert {each.handle for each in made} == {0}


def test_solver_of_a_dolfin_matrix_gives_it_back(models):
    model = models["linear"]
    model.problem.setLinearizationPoint([model.generate_vector(i) for i in (hp.STATE, hp.PARAMETER, hp.ADJOINT)], True)
    solver = linear_solver.LinearSolver(model.prior.mean.mpi_comm())
    solver.set_operator(dl.as_backend_type(model.problem.A))
    held = solver._matrix, solver.ksp
    del solver
    assert [each.handle for each in held] == [0, 0]

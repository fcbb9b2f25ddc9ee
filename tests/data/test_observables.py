"""Datasets of whole states and of time-dependent problems; Jacobians by columns."""

import dolfin as dl
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.data import projection
from hippylib_dino.errors import InputError, MisfitError, RankError
from tests import problems, time_dependent_problems

SIZE = {"n_samples": 8, "n_validation": 2, "n_test": 2, "n_basis_samples": 7, "input_rank": 12, "output_rank": 5}


@pytest.fixture(scope="module")
def state():
    return problems.state(hd.sample_communicator())


@pytest.fixture(scope="module", params=["kle", "derivative"])
def dataset(request, state, tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / request.param
    return hd.generate(state, path, **SIZE, input_basis=request.param, output_basis="pod", progress=False)


def _full(model, index):
    """m, u in canonical order, J (dU, dM) in canonical order, of a sample."""
    m = hd.data.draw_parameter(model.prior, 0, index)
    u, J = model.linearize(m)
    order = hd.modeling.DofOrder(model.prior.Vh)
    parameter = order.to_array(hd.modeling.owned_values(m))
    return parameter, u, order.to_array(J.transpmult_block(np.eye(J.shape[0]))).T


def _mass(model):
    order = hd.modeling.DofOrder(model.problem.Vh[hp.STATE])
    permutation = np.argsort(order.owned)
    return model.misfit.W.array()[np.ix_(permutation, permutation)] / model.misfit.noise_variance


def test_state_samples_are_projections_of_full_ones(state, dataset):
    W, inputs, outputs = _mass(state), dataset.input_basis, dataset.output_basis
    for index in (1, 10):
        m, u, J = _full(state, index)
        np.testing.assert_allclose(dataset.x[index], inputs.encode(m), atol=1e-9)
        np.testing.assert_allclose(dataset.y[index], outputs.encode(u), atol=1e-8 * np.abs(dataset.y).max())
        reduced = outputs.encoder.T @ J @ inputs.decoder
        np.testing.assert_allclose(dataset.reduced_jacobian[index], reduced, atol=1e-8 * np.abs(reduced).max())
        rest = u - outputs.decode(outputs.encode(u))
        part = "train" if index < 8 else "test"
        sample, row = dataset.split(part), index if index < 8 else index - 10
        assert sample.observable is None
        assert sample.observable_energy[row] == pytest.approx(u @ W @ u)
        assert sample.observable_residual[row] == pytest.approx(rest @ W @ rest, rel=1e-6)


def test_state_basis_is_the_mass_weighted_pod(state, dataset):
    basis, W = dataset.output_basis, _mass(state)
    U = np.array([_full(state, i)[1] for i in range(7)])
    np.testing.assert_allclose(basis.shift, U.mean(axis=0), atol=1e-9)
    centred = U - U.mean(axis=0)
    truth = np.linalg.eigvalsh(centred @ W @ centred.T / 6)[::-1]
    np.testing.assert_allclose(basis.eigenvalues[:5], truth[:5], rtol=1e-6)
    np.testing.assert_allclose(basis.encoder, W @ basis.decoder, atol=1e-9 * np.abs(basis.encoder).max())
    np.testing.assert_allclose(basis.encoder.T @ basis.decoder, np.eye(5), atol=1e-10)
    # the truncated snapshots lose what the eigenvalues say
    rest = centred - (centred @ basis.encoder) @ basis.decoder.T
    assert np.einsum("ni,ij,nj->", rest, W, rest) / 6 == pytest.approx(truth[5:].sum(), rel=1e-6)


def test_derivative_input_basis_of_a_state_sees_its_jacobians(state, tmp_path):
    """Against the dense eigenproblem of E[(Φ⁺ᵀJ)ᵀ(Φ⁺ᵀJ)]."""
    import scipy.linalg as sla

    d = hd.generate(state, tmp_path / "d", **SIZE, output_basis="pod", progress=False)
    order = hd.modeling.DofOrder(state.prior.Vh)
    rows = [d.output_basis.encoder.T @ _full(state, i)[2] for i in range(7)]
    H = sum(J.T @ J for J in rows) / 7
    R = np.linalg.inv(_dense(state.prior.Rsolver, state.prior.mean, order))
    truth = sla.eigh(H, R, eigvals_only=True)[::-1]
    np.testing.assert_allclose(d.input_basis.eigenvalues[:12], truth[:12], rtol=1e-5)


def _dense(solver, like, order):
    columns = hd.modeling.spaces.map_block(solver.solve, like, like, np.eye(order.dim))
    permutation = np.argsort(order.owned)
    return columns[np.ix_(permutation, permutation)]


def test_energy_of_the_whole_jacobian_is_estimated_without_bias(state, dataset, monkeypatch):
    """tr(Γ⁻¹ J R⁻¹ Jᵀ) exactly, against the estimate with a few random directions and with many."""
    order, W = hd.modeling.DofOrder(state.prior.Vh), _mass(state)
    J = _full(state, 10)[2]
    exact = np.trace(W @ J @ _dense(state.prior.Rsolver, state.prior.mean, order) @ J.T)
    assert dataset.split("test").jacobian_energy[0] == pytest.approx(exact, rel=0.2)
    monkeypatch.setattr(projection, "N_PROBES_BY_COLUMNS", 600)
    projector = projection.Projector(state, dataset.input_basis, dataset.output_basis, seed=0)
    solved = hd.data.solving.SampleSolver(state, 0).solve(10)
    assert projector.record(solved)["jacobian_energy"] == pytest.approx(exact, rel=0.02)


def test_network_learns_a_state(state, dataset):
    dino = hd.train(dataset, epochs=40, hidden=(32,), progress=False)
    errors = dino.evaluate(dataset, "train")
    assert errors["observable_truncation"] < errors["observable"] < 0.5
    assert (
        errors["observable"]
        < 0.9 * hd.train(dataset, epochs=1, hidden=(32,), progress=False).evaluate(dataset, "train")["observable"]
    )
    assert "the whole state" in hd.data.report(dataset)["observable"]


def test_truncated_state_keeps_account_of_its_energy(state, dataset):
    d = dataset.truncate(6, 3)
    sample, wide = d.split("train"), dataset.split("train")
    total = (sample.y**2).sum(axis=1) + sample.observable_residual
    np.testing.assert_allclose(total, (wide.y**2).sum(axis=1) + wide.observable_residual, rtol=1e-12)


def test_part_of_a_state(tmp_path):
    """The misfit's form sees one component of a vector state: the basis is blind to the other."""
    base = problems.vector(hd.sample_communicator())
    V = base.problem.Vh[hp.STATE]
    u, v = dl.TrialFunction(V), dl.TestFunction(V)
    misfit = hp.ContinuousStateObservation(V, dl.dx, None, noise_variance=1.0, form=u[1] * v[1] * dl.dx)
    model = hd.JacobianModel(base.problem, base.prior, misfit)
    d = hd.generate(model, tmp_path / "d", **{**SIZE, "output_rank": 3}, output_basis="pod", progress=False)
    components = hd.modeling.DofOrder(V).coordinates[:, 0]
    encoder = np.abs(d.output_basis.encoder)
    assert encoder[components == 0].max() == 0.0
    assert encoder[components == 1].max() > 0.0


def test_what_a_state_cannot_have_is_named(state, tmp_path):
    with pytest.raises(InputError, match='a whole state is compressed by output_basis="pod"'):
        hd.generate(state, tmp_path / "d", **SIZE, progress=False)
    with pytest.raises(InputError, match="store_full=True"):
        hd.generate(state, tmp_path / "d", **SIZE, output_basis="pod", store_full=True, progress=False)
    with pytest.raises(RankError, match="output_rank: expected at most 6"):
        hd.generate(state, tmp_path / "d", **{**SIZE, "output_rank": 7}, output_basis="pod", progress=False)
    misfit = hp.ContinuousStateObservation(state.problem.Vh[hp.STATE], dl.dx, None)
    model = hd.JacobianModel(state.problem, state.prior, misfit)
    with pytest.raises(MisfitError, match="noise variance: expected > 0, got None"):
        hd.generate(model, tmp_path / "d", **SIZE, output_basis="pod", progress=False)


def test_state_of_another_mass_matrix_is_refused(state, tmp_path):
    hd.generate(state, tmp_path / "d", **SIZE, output_basis="pod", progress=False)
    misfit = hp.ContinuousStateObservation(state.problem.Vh[hp.STATE], dl.ds, None, noise_variance=1e-4)
    model = hd.JacobianModel(state.problem, state.prior, misfit)
    with pytest.raises(hd.errors.FingerprintError, match="another mass matrix of the observed state"):
        hd.generate(model, tmp_path / "d", **SIZE, output_basis="pod", resume=True, progress=False)


def test_columns_and_rows_give_the_same_reduced_jacobians(models, tmp_path, monkeypatch):
    """With more observables than input directions the second pass solves forward."""
    model, size = models["confusion"], {**SIZE, "output_rank": 20}
    by_columns = hd.generate(model, tmp_path / "columns", **size, progress=False)
    monkeypatch.setattr(projection, "N_PROBES_BY_COLUMNS", 50)
    by_rows = hd.generate(model, tmp_path / "rows", **size, progress=False)
    scale = np.abs(by_rows.reduced_jacobian).max()
    np.testing.assert_allclose(by_columns.reduced_jacobian, by_rows.reduced_jacobian, atol=1e-8 * scale)
    a, b = (d.split("test").jacobian_energy for d in (by_columns, by_rows))
    np.testing.assert_allclose(a, b, rtol=0.3)
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("name", ["heat", "reaction"])
def test_time_dependent_dataset(tmp_path, name):
    model = hd.JacobianModel(*getattr(time_dependent_problems, name)(hd.sample_communicator()))
    d = hd.generate(model, tmp_path / "d", **{**SIZE, "input_rank": 8}, progress=False)
    assert d.verify() == 12
    m = hd.data.draw_parameter(model.prior, 0, 10)
    q, J = model.linearize(m)
    order = hd.modeling.DofOrder(model.prior.Vh)
    full = order.to_array(J.owned_rows()).T
    reduced = d.output_basis.encoder.T @ full @ d.input_basis.decoder
    np.testing.assert_allclose(d.reduced_jacobian[10], reduced, atol=1e-8 * np.abs(reduced).max())
    np.testing.assert_allclose(d.split("test").observable[0], q, rtol=1e-10)
    dino = hd.train(d, epochs=2, hidden=(8,), progress=False)
    assert set(dino.evaluate(d)) >= {"observable", "jacobian"}
    resumed = hd.generate(model, tmp_path / "d", **{**SIZE, "input_rank": 8}, resume=True, progress=False)
    assert resumed.complete


def test_other_observation_times_are_refused(tmp_path):
    model = hd.JacobianModel(*time_dependent_problems.heat(hd.sample_communicator()))
    hd.generate(model, tmp_path / "d", **{**SIZE, "input_rank": 8}, progress=False)
    times = [model.problem.times[2], *model.misfit.sim_times[1:]]
    other = hd.JacobianModel(model.problem, model.prior, hp.MisfitTD(model.misfit.misfits, times))
    with pytest.raises(hd.errors.FingerprintError, match="another observation operator: times was"):
        hd.generate(other, tmp_path / "d", **{**SIZE, "input_rank": 8}, resume=True, progress=False)

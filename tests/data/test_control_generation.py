import json

import dolfin as dl
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import FingerprintError, InputError, RankError
from hippylib_dino.modeling.spaces import DofOrder, set_owned_values
from hippylib_dino.modeling.verify import STEPS, rate
from tests import control_problems

CASES = {"state": ("bent", "pod"), "points": ("field", "derivative")}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """Model and dataset: of the whole state with coefficients, of points with a field as control."""
    name, basis = CASES[request.param]
    model = control_problems.build(name, hd.sample_communicator(), observable=request.param)
    dataset = hd.generate(
        model, tmp_path_factory.mktemp("data") / "d", n_samples=12, n_validation=2, n_test=4, n_basis_samples=10,
        input_rank=8, output_rank=6, output_basis=basis, store_parameters=True, progress=False,
    )  # fmt: skip
    return model, dataset


def solve(model, dataset, index, shift=0.0, direction=None):
    """Observable of a stored sample, moved along a direction of latent inputs."""
    basis, samples = dataset.input_basis, dataset.split("train")
    m, z = dataset.full("m", np.array([index]))[0], samples.control[index]
    if direction is not None:
        moved = basis.decoder @ (shift * direction)
        m, z = m + moved[: len(m)], z + moved[len(m) :]
    vector = model.problem.generate_parameter()
    set_owned_values(vector, DofOrder(model.prior.Vh).from_array(m))
    model.problem.control = z
    return model.evalObservable(vector)


def test_latent_inputs_are_those_of_parameter_and_control(case):
    model, dataset = case
    samples = dataset.split("train")
    parameter, control = dataset.input_basis.parameter_part(), dataset.input_basis.control_part()
    m = dataset.full("m", samples.index)
    np.testing.assert_allclose(samples.x[:, :8], parameter.encode(m), atol=1e-10)
    np.testing.assert_allclose(samples.x[:, 8:], control.encode(samples.control), atol=1e-10)
    np.testing.assert_allclose(dataset.control.encode(samples.control), samples.x[:, 8:], atol=1e-10)
    assert samples.control_rank == control.rank == model.problem.control_order.dim
    np.testing.assert_allclose(control.encoder.T @ control.decoder, np.eye(control.rank), atol=1e-12)
    assert dataset.verify() == 18


def test_values_and_reduced_jacobians_are_those_of_the_pde(case, rng):
    """Taylor rate 2 of the stored reduced Jacobian in a direction of both inputs, 1 of one that is 5 % off."""
    model, dataset = case
    samples, output = dataset.split("train"), dataset.output_basis
    direction = 0.3 * rng.standard_normal(samples.x.shape[1])
    y = output.encode(solve(model, dataset, 1))
    np.testing.assert_allclose(samples.y[1], y, rtol=0, atol=1e-7 * np.abs(y).max())
    slope = samples.reduced_jacobian[1] @ direction
    change = np.array([output.encode(solve(model, dataset, 1, h, direction)) - y for h in STEPS])
    assert rate(np.linalg.norm(change - STEPS[:, None] * slope, axis=1)) == pytest.approx(2, abs=0.2)
    assert rate(np.linalg.norm(change - 1.05 * STEPS[:, None] * slope, axis=1)) < 1.7


def test_energies_are_those_of_the_full_jacobians(case):
    model, dataset = case
    samples, noise = dataset.split("train"), model.data_space
    solve(model, dataset, 2)
    m = model.problem.generate_parameter()
    set_owned_values(m, DofOrder(model.prior.Vh).from_array(dataset.full("m", np.array([2]))[0]))
    model.linearize(m)
    # columns of a dense Jacobian are in dolfin's order
    J = noise.local(model.control_jacobian().to_dense()) @ dataset.control.factor[model.problem.control_order.owned]
    np.testing.assert_allclose(samples.control_jacobian_energy[2], np.sum(J * noise.precision(J)), rtol=1e-6)
    held = (samples.reduced_jacobian[:, :, 8:] ** 2).sum((1, 2))
    assert (held <= samples.control_jacobian_energy * (1 + 1e-9)).all()
    assert (samples.control_jacobian_energy < samples.jacobian_energy).all()


def test_reduced_controls_hold_the_most(tmp_path):
    """Derivative-informed controls: fewer coordinates, and the share of the Jacobian that their eigenvalues promise."""
    model = control_problems.build("field", hd.sample_communicator(), observable="points")
    common = {"n_samples": 10, "n_validation": 1, "n_test": 1, "input_rank": 6, "output_rank": 6, "progress": False}
    dataset = hd.generate(model, tmp_path / "a", control_rank=0.99, **common)
    basis, samples = dataset.basis("control"), dataset.split("train")
    assert basis.kind == "derivative"
    assert samples.control_rank == basis.rank < 49
    held = (samples.reduced_jacobian[:, :, 6:] ** 2).sum() / samples.control_jacobian_energy.sum()
    assert held == pytest.approx(basis.energy()[basis.rank - 1], abs=1e-6)
    assert held >= 0.99
    again = hd.generate(model, tmp_path / "a", control_rank=0.99, resume=True, **common)
    assert again.split("train").control_rank == basis.rank


def test_info_tells_of_the_control(case):
    _, dataset = case
    rows, dim = hd.data.report(dataset), dataset.control.dim
    assert rows["controls"] == f"UniformControl of {dim}"
    assert f"control whitened, rank {dim}" in rows["bases"]


def test_a_truncated_view_keeps_the_control(case):
    _, dataset = case
    view, samples = dataset.truncate(5, 4), dataset.split("train")
    kept = np.r_[0:5, 8 : samples.x.shape[1]]
    np.testing.assert_array_equal(view.split("train").x, samples.x[:, kept])
    np.testing.assert_array_equal(view.split("train").reduced_jacobian, samples.reduced_jacobian[:, :4][:, :, kept])
    assert view.input_basis.rank == len(kept)
    np.testing.assert_allclose(view.input_basis.encoder.T @ view.input_basis.decoder, np.eye(len(kept)), atol=1e-9)


def test_two_ranks_and_a_resumed_run_make_the_same_data(run_python, tmp_path):
    code = """
import sys
import hippylib_dino as hd
from tests import control_problems
model = control_problems.build("wells", hd.sample_communicator())
for n in {steps}:
    hd.generate(model, {path!r}, n_samples=n, n_validation=2, n_test=2, n_basis_samples=6, input_rank=5,
        output_rank=5, output_basis="pod", resume=True, progress=False)
"""
    paths = {}
    for name, ranks, steps in (("one", 1, (8,)), ("two", 2, (8,)), ("resumed", 1, (6, 8))):
        paths[name] = str(tmp_path / name)
        run_python(code.format(path=paths[name], steps=steps), ranks=ranks)
    one, two, resumed = (hd.Dataset.open(path) for path in paths.values())
    for name in ("x", "y", "reduced_jacobian"):
        np.testing.assert_allclose(getattr(two, name), getattr(one, name), rtol=0, atol=1e-9)
    np.testing.assert_allclose(resumed.split("train").x[:6], one.split("train").x[:6], rtol=0, atol=1e-9)
    assert len(resumed.split("train").control) == 8


def test_another_distribution_is_another_problem(case, tmp_path):
    model, dataset = case
    dim = model.problem.control_order.dim
    other = hd.JacobianModel(model.problem, model.prior, model.misfit, control=control_problems.box(dim, 1.0))
    with pytest.raises(FingerprintError, match="made for another control"):
        hd.generate(
            other, dataset.path, n_samples=12, n_validation=2, n_test=4, n_basis_samples=10, input_rank=8,
            output_rank=6, output_basis=dataset.plan.output_basis, store_parameters=True, resume=True, progress=False,
        )  # fmt: skip


def test_failed_solves_are_recorded_and_continuation_moves_the_control_along(tmp_path):
    model = control_problems.build("bent", hd.sample_communicator())
    model.initial_guess = lambda m: model.problem.generate_state()
    common = {
        "n_samples": 3, "n_validation": 1, "n_test": 1, "n_basis_samples": 3, "input_rank": 3, "output_rank": 2,
        "output_basis": "pod", "progress": False,
    }  # fmt: skip
    before = model.problem.control_from_array(np.array([0.3, -0.2, 0.1]))
    model.problem.control = before
    plain = hd.generate(model, tmp_path / "plain", **common)
    np.testing.assert_array_equal(model.problem.control.get_local(), before.get_local())
    model.problem.control = np.zeros(3)
    solve, calls = model.problem.solveFwd, []

    def fragile(state, x):
        """Needs a guess, but for the first call, which asks for no sample, and at the reference control."""
        calls.append(model.problem.control.norm("l2"))
        if len(calls) > 1 and x[0].norm("l2") == 0.0 and calls[-1] > 0.0:
            raise hd.modeling.ForwardSolveError("too far from the guess")
        solve(state, x)

    model.problem.solveFwd = fragile
    with pytest.raises(hd.errors.GenerationError):
        hd.generate(model, tmp_path / "failed", max_failures=0, **common)
    record = json.loads(next((tmp_path / "failed" / "failures").glob("*.json")).read_text())
    np.testing.assert_array_equal(record["control"], plain.split("train").control[record["index"]])
    hd.plotting.plot_dataset(plain)
    calls.clear()
    rescued = hd.generate(model, tmp_path / "rescued", retry="continuation", **common)
    assert len(rescued.rescued) == 5
    np.testing.assert_allclose(rescued.y, plain.y, rtol=0, atol=1e-7)


def test_bad_input_is_named(case, models, tmp_path):
    model, _ = case
    basis = "pod" if model.whole_state else "derivative"
    common = {"n_samples": 4, "input_rank": 2, "output_rank": 2, "progress": False}
    with pytest.raises(RankError, match=r"control_rank: expected 1 .. "):
        hd.generate(model, tmp_path, control_rank=1000, **common)
    with pytest.raises(InputError, match="control_rank: the model draws no controls"):
        hd.generate(models["poisson"], tmp_path, control_rank=2, **common)
    with pytest.raises(InputError, match=r"store_full.*full Jacobians are not stored"):
        hd.generate(model, tmp_path, store_full=True, output_basis=basis, **common)
    with pytest.raises(InputError, match=r"initial_guess: .* compares parameters alone"):
        hd.generate(model, tmp_path, initial_guess="nearest", output_basis="pod", **common)


def test_distributions_refuse_what_cannot_be():
    with pytest.raises(InputError, match=r"lower < upper for every control, got 1.0 and 0.0 for control 1"):
        hd.ouu.UniformControl([0.0, 1.0], [1.0, 0.0])
    with pytest.raises(InputError, match="expected one length"):
        hd.ouu.UniformControl([0.0], [1.0, 2.0])
    with pytest.raises(InputError, match="lower: expected finite numbers"):
        hd.ouu.UniformControl([-np.inf], [1.0])
    with pytest.raises(InputError, match="covariance: expected a symmetric positive definite matrix"):
        hd.ouu.GaussianControl([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(InputError, match=r"covariance: expected a number, shape \(2,\)"):
        hd.ouu.GaussianControl([0.0, 0.0], np.ones(3))
    with pytest.raises(InputError, match="control: expected one of"):
        hd.ouu.control_from_config({"kind": "Cauchy"})


@pytest.mark.parametrize(
    "controls",
    [
        hd.ouu.UniformControl([-1.0, 0.0], [3.0, 0.1]),
        hd.ouu.GaussianControl([1.0, -2.0], np.array([[2.0, 0.5], [0.5, 1.0]])),
    ],
)
def test_latent_controls_are_white(controls):
    z = controls.draw(np.random.default_rng(0), 20000)
    zeta = controls.encode(z)
    np.testing.assert_allclose(zeta.mean(axis=0), 0.0, atol=0.03)
    np.testing.assert_allclose(np.cov(zeta.T), np.eye(2), atol=0.04)
    np.testing.assert_allclose(controls.decode(zeta), z, atol=1e-12)
    again = hd.ouu.control_from_config(controls.get_config())
    np.testing.assert_array_equal(again.draw(np.random.default_rng(1)), controls.draw(np.random.default_rng(1)))
    assert controls.contains(controls.mean)
    assert not controls.contains(controls.mean + 10.0 * np.diag(controls.factor))


dl.set_log_level(dl.LogLevel.ERROR)

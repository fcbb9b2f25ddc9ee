import dataclasses

import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import FingerprintError, InputError, VectorError
from hippylib_dino.modeling.spaces import map_block, owned_values
from hippylib_dino.network import ReducedDense
from tests.problems import observe_truth, solve_map


def test_model_verify(surrogates, models):
    """hIPPYlib's own finite-difference check: errors fall at first order until rounding."""
    model = surrogates["confusion surrogate"]
    observe_truth(models["confusion"])
    m = hd.data.draw_parameter(model.prior, 5, 0)
    direction = hd.data.draw_parameter(model.prior, 5, 1)
    steps, gradient, hessian = hp.modelVerify(model, m, verbose=False, h=direction, eps=2.0 ** -np.arange(2, 8))
    for errors in (gradient, hessian):
        assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("globalization", ["LS", "TR"])
def test_newton_cg_converges_near_the_pde(models, surrogates, globalization):
    model, surrogate = models["confusion"], surrogates["confusion surrogate"]
    observe_truth(model)
    exact, _ = solve_map(model)
    x, solver = solve_map(surrogate, globalization=globalization)
    assert solver.converged
    gap = x[hp.PARAMETER] - exact[hp.PARAMETER]
    distance = np.sqrt(gap.inner(model.prior.M * gap))
    size = np.sqrt(exact[hp.PARAMETER].inner(model.prior.M * exact[hp.PARAMETER]))
    assert distance < 0.5 * size  # a network of 48 samples; the benchmark measures the real ones


def _gaussian(model):
    """Closed form MAP and covariance of a linear problem, dense."""
    prior, J = model.prior, model.jacobian(model.prior.mean).to_dense()
    n = prior.mean.size()
    C = map_block(prior.Rsolver.solve, prior.mean, prior.mean, np.eye(n))
    noise = model.noise_covariance.to_dense()
    gain = C @ J.T @ np.linalg.inv(J @ C @ J.T + noise)
    mean = owned_values(prior.mean)
    residual = owned_values(model.misfit.d if hasattr(model.misfit, "d") else model.misfit.misfit.d) - model.value(
        prior.mean
    )
    return mean + gain @ residual, C - gain @ J @ C


@pytest.mark.parametrize("name", ["linear", "linear surrogate"])
def test_linear_problem_gives_the_closed_form_posterior(maps, models, name):
    observe_truth(models["linear"])
    expected_map, expected_covariance = _gaussian(models["linear"])
    x, solver = solve_map(maps[name])
    assert solver.converged
    scale = np.abs(expected_map).max()
    np.testing.assert_allclose(owned_values(x[hp.PARAMETER]), expected_map, rtol=0, atol=1e-7 * scale)
    posterior = hd.laplace(maps[name], x)
    np.testing.assert_array_equal(owned_values(posterior.mean), owned_values(x[hp.PARAMETER]))
    covariance = map_block(posterior.Hlr.solve, x[hp.PARAMETER], x[hp.PARAMETER], np.eye(len(expected_map)))
    np.testing.assert_allclose(covariance, expected_covariance, rtol=0, atol=1e-7 * np.abs(expected_covariance).max())


def test_laplace_eigenvalues_equal_the_latent_ones(models, surrogates, confusion_dino):
    """hIPPYlib's randomized eigenpairs against dense algebra in latent coordinates."""
    surrogate = surrogates["confusion surrogate"]
    observe_truth(models["confusion"])
    x, _ = solve_map(surrogate)
    posterior = hd.laplace(surrogate, x, rank=20)
    point = surrogate.problem.evaluate(x[hp.PARAMETER])
    weighted = surrogate.noise_covariance.whiten(confusion_dino.output_basis.decoder @ point.jacobian)
    latent = np.linalg.svd(weighted, compute_uv=False) ** 2
    np.testing.assert_allclose(posterior.d[:15], latent[:15], rtol=1e-5)
    with pytest.raises(InputError, match=r"rank: expected 1 \.\. 289, the parameter dimension, got 290"):
        hd.laplace(surrogate, x, rank=290)


@pytest.mark.parametrize("name", ["linear", "linear surrogate"])
def test_laplace_keeps_no_eigenvalues_of_rounding(maps, models, name):
    """Nine observables give nine eigenvalues, whatever rank is asked for; the posterior is the same."""
    observe_truth(models["linear"])
    x, _ = solve_map(maps[name])
    default, more = hd.laplace(maps[name], x), hd.laplace(maps[name], x, rank=40)
    assert len(default.d) == len(more.d) == more.U.nvec() == 9
    assert more.d[-1] > 1e-4
    np.testing.assert_allclose(more.d, default.d, rtol=1e-5)


def test_laplace_of_a_surrogate_of_few_outputs(models, confusion_dino):
    """The default rank is that of the outputs, of which this one has fewer than observables and inputs."""
    model = models["confusion"]
    few = dataclasses.replace(
        confusion_dino,
        output_basis=dataclasses.replace(
            confusion_dino.output_basis,
            decoder=confusion_dino.output_basis.decoder[:, :3],
            encoder=confusion_dino.output_basis.encoder[:, :3],
        ),
        architecture=ReducedDense(24, 3, hidden=()),
        weights=[np.eye(24, 3), np.zeros(3)],
    )
    surrogate = hd.SurrogateModel(few, model.prior, model.misfit)
    x, _ = solve_map(surrogate)
    assert len(hd.laplace(surrogate, x).d) == len(hd.laplace(surrogate, x, rank=20).d) == 3


def test_data_and_noise_are_read_at_each_call(models, surrogates):
    model, surrogate = models["confusion"], surrogates["confusion surrogate"]
    observe_truth(model)
    x = surrogate.generate_vector()
    surrogate.solveFwd(x[hp.STATE], x)
    first, variance = surrogate.cost(x)[2], model.misfit.noise_variance
    model.misfit.noise_variance = 4 * variance
    assert surrogate.cost(x)[2] == pytest.approx(first / 4)
    assert surrogate.noise_covariance.value == pytest.approx(4 * variance)
    model.misfit.noise_variance = variance
    model.misfit.d.axpy(1.0, model.misfit.d.copy())
    assert surrogate.cost(x)[2] != pytest.approx(first)


def test_pde_model_is_not_disturbed_by_its_surrogate(models, surrogates):
    """Work vectors of the user's misfit are not shared."""
    model, surrogate = models["confusion"], surrogates["confusion surrogate"]
    observe_truth(model)
    m = model.prior.mean
    state = model.solveState(m)
    before = model.misfit.cost([state, m, None])
    x = surrogate.generate_vector()
    surrogate.solveFwd(x[hp.STATE], x)
    surrogate.cost(x)
    assert model.misfit.cost([state, m, None]) == before


def _changed(name, models):
    """The confusion problem with another mesh, prior precision, prior mean or sensors."""
    import dolfin as dl

    from applications import confusion

    model = models["confusion"]
    space = model.prior.Vh
    if name == "mesh":
        other = confusion.build(hd.sample_communicator(), mesh_size=14)
        return other.prior, other.misfit
    if name == "precision":
        return hp.BiLaplacianPrior(space, 0.11, 1.0, robin_bc=True, solver_type="lu"), model.misfit
    if name == "mean":
        prior = confusion.build(hd.sample_communicator(), mesh_size=16).prior
        prior.mean = dl.interpolate(dl.Constant(0.01), space).vector()
        return prior, model.misfit
    shift = 1 / 16 if name == "sensors by a cell" else 0.013
    points = confusion.model.observation_points() + shift
    return model.prior, hp.DiscreteStateObservation(hp.assemblePointwiseObservation(space, points), noise_variance=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("mesh", "another parameter space: dimension was 289, is 225"),
        ("precision", "another prior: precision was"),
        ("mean", "another prior: mean was"),
        ("sensors", "another observation rows: norms was"),
        ("sensors by a cell", "another observation rows: columns was"),
    ],
)
def test_surrogate_of_another_problem_is_named(models, confusion_dino, change, message):
    with pytest.raises(FingerprintError, match=f"dino: it was made for {message}"):
        hd.SurrogateModel(confusion_dino, *_changed(change, models))


def test_same_problem_built_again_is_accepted(confusion_dino):
    from applications import confusion

    again = confusion.build(hd.sample_communicator(), mesh_size=16)
    hd.SurrogateModel(confusion_dino, again.prior, again.misfit)


def test_network_that_is_not_finite_fails_the_solve(models, confusion_dino):
    from hippylib.utils.warnings import ModelConvergenceError

    weights = [w.copy() for w in confusion_dino.weights]
    weights[-1][0] = np.nan
    broken = dataclasses.replace(confusion_dino, weights=weights)
    model = hd.SurrogateModel(broken, models["confusion"].prior, models["confusion"].misfit)
    with pytest.raises(ModelConvergenceError, match="not finite at a parameter with"):
        model.evalObservable(model.prior.mean)


def test_vector_on_another_communicator_is_named(run_python):
    code = """
import dolfin as dl
from mpi4py import MPI
from hippylib_dino.errors import VectorError
from hippylib_dino.modeling.spaces import check_vector
try:
    check_vector(dl.Vector(MPI.COMM_SELF, 16), dl.Vector(MPI.COMM_WORLD, 32), "m")
except VectorError as error:
    print(error)
"""
    out = run_python(code, ranks=2).stdout
    assert out.count("m: the vector lives on another MPI communicator (1 ranks) than the problem (2 ranks)") == 2


MAP_ON_RANKS = """
import sys
import numpy as np
import hippylib as hp
import hippylib_dino as hd
from mpi4py import MPI
from tests.problems import observe_truth, solve_map
from applications import confusion
comm = hd.sample_communicator(None)
model = confusion.build(comm, mesh_size=16)
order = hd.modeling.DofOrder(model.prior.Vh)
data = np.load({data!r})
first, last = model.misfit.d.local_range()
hd.modeling.set_owned_values(model.misfit.d, data[first:last])
surrogate = hd.SurrogateModel(hd.DINO.load({dino!r}), model.prior, model.misfit)
for name, candidate in (("pde", model), ("surrogate", surrogate)):
    x, solver = solve_map(candidate)
    print(candidate, solver.it, solver.termination_reasons[solver.reason], solver.final_grad_norm, flush=True)
    assert solver.converged
    whole = order.to_array(hd.modeling.owned_values(x[hp.PARAMETER]))
    if comm.rank == 0:
        np.save({out!r} + f"-{{name}}-{{comm.size}}.npy", whole)
"""


def test_map_on_one_and_two_mesh_ranks_is_equal(run_python, models, confusion_dino, tmp_path):
    model = models["confusion"]
    observe_truth(model)
    np.save(tmp_path / "data.npy", owned_values(model.misfit.d))
    confusion_dino.save(tmp_path / "a.dino")
    code = MAP_ON_RANKS.format(
        data=str(tmp_path / "data.npy"), dino=str(tmp_path / "a.dino"), out=str(tmp_path / "map")
    )
    for ranks in (1, 2):
        run_python(code, ranks=ranks)
    for name in ("pde", "surrogate"):
        one, two = (np.load(tmp_path / f"map-{name}-{ranks}.npy") for ranks in (1, 2))
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-5 * np.abs(one).max())


def test_errors_are_of_this_package():
    assert issubclass(VectorError, hd.errors.DinoError)
    assert issubclass(VectorError, ValueError)

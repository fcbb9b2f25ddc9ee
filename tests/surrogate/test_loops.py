"""Every loop of hIPPYlib on the surrogate, unmodified; the table in docs/surrogate.md lists these tests.

The problems are affine and the DINOs exact, so that a loop on the surrogate gives what it gives on the PDE.
"""

import contextlib
import itertools
import json
import os
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import dolfin as dl
import hippylib as hp
import numpy as np
import pytest
from hippylib.utils.warnings import ModelConvergenceError

import hippylib_dino as hd
from hippylib_dino.errors import FingerprintError, InputError, MisfitError
from hippylib_dino.modeling import DofOrder, cost_rates
from hippylib_dino.modeling.spaces import owned_values, set_owned_values
from hippylib_dino.network import ReducedDense
from hippylib_dino.network.latent_map import LatentMap
from tests.problems import solve_map
from tests.surrogate import affine_problems
from tests.surrogate.affine_problems import FLAVOURS, MISFITS, PRIORS, build, exact_dino, full_bases, surrogate_of

COMM = hd.sample_communicator()
SAMPLES = 20

# ---- loops: each takes a model and gives numbers, the same on every rank --------------------


def whole(model, vector):
    """A parameter vector, primal or dual, in canonical order."""
    return DofOrder(model.prior.Vh).to_array(owned_values(vector))


def quiet(parameters, **settings):
    for name, value in {"print_level": -1, **settings}.items():
        parameters[name] = value
    return parameters


def linearized(model, gauss_newton_approx):
    """[u, m, p] at a prior sample, where the Hessian is ready."""
    x = model.generate_vector()
    x[hp.PARAMETER].axpy(1.0, hd.data.draw_parameter(model.prior, 5, 0))
    model.solveFwd(x[hp.STATE], x)
    model.solveAdj(x[hp.ADJOINT], x)
    model.setPointForHessianEvaluations(x, gauss_newton_approx=gauss_newton_approx)
    return x


def random_directions(model, n):
    comm, directions = model.prior.mean.mpi_comm(), hp.MultiVector(model.prior.mean, n)
    hp.Random(comm.rank, comm.size, 1_000_000, 7).normal(1.0, directions)
    return directions


def newton(globalization):
    def run(model):
        x, solver = solve_map(model, globalization=globalization)
        assert solver.converged
        return whole(model, x[hp.PARAMETER])

    return run


def bfgs(model):
    solver = hp.BFGS(model, quiet(hp.BFGS_ParameterList(), rel_tolerance=1e-6, max_iter=100))
    x = solver.solve([None, model.prior.mean.copy(), None], model.prior.Rsolver)
    assert solver.converged
    return whole(model, x[hp.PARAMETER])


def steepest_descent(model):
    solver = hp.SteepestDescent(model, quiet(hp.SteepestDescent_ParameterList(), max_iter=6))
    x = solver.solve([None, model.prior.mean.copy(), None])
    start = model.generate_vector()
    start[hp.PARAMETER].axpy(1.0, model.prior.mean)
    model.solveFwd(start[hp.STATE], start)
    assert solver.final_cost < model.cost(start)[0]
    return whole(model, x[hp.PARAMETER])


def reduced_hessian(model):
    direction = hd.data.draw_parameter(model.prior, 5, 1)
    actions = []
    for gauss_newton_approx in (True, False):
        linearized(model, gauss_newton_approx)
        out = model.generate_vector(hp.PARAMETER)
        hp.ReducedHessian(model).mult(direction, out)
        actions.append(whole(model, out))
    return np.array(actions)


def eigenpairs(algorithm):
    def run(model):
        x = linearized(model, True)
        hessian = hp.ReducedHessian(model, misfit_only=True)
        rank = min(5, model.prior.mean.size())
        directions = random_directions(model, min(2 * rank, model.prior.mean.size()))
        d, U = algorithm(hessian, model.prior.R, model.prior.Rsolver, directions, rank, s=1)
        posterior = hp.GaussianLRPosterior(model.prior, d, U)
        posterior.mean = x[hp.PARAMETER].copy()
        out = model.generate_vector(hp.PARAMETER)
        posterior.Hlr.solve(out, hd.data.draw_parameter(model.prior, 5, 1))
        return np.concatenate([d, whole(model, out)])

    return run


@contextlib.contextmanager
def same_random_numbers(model):
    """hIPPYlib draws from one global stream; here each chain starts it anew."""
    comm = model.prior.mean.mpi_comm()
    stream = hp.Random(comm.rank, comm.size, 1_000_000, 3)
    np.random.seed(3)  # noqa: NPY002  what hIPPYlib's kernels accept by
    with (
        mock.patch("hippylib.mcmc.kernels.parRandom", stream),
        mock.patch("hippylib.forward_uq.varianceReductionMC.parRandom", stream),
    ):
        yield


class Trace:
    """The costs and the last sample of a chain."""

    def __init__(self):
        self.costs, self.last = [], None

    def append(self, current, q):
        self.costs.append(current.cost)
        self.last = current.m


def chain(make_kernel, at_least):
    def run(model):
        kernel = make_kernel(model)
        mcmc = hp.MCMC(kernel)
        for name, value in (("number_of_samples", SAMPLES), ("burn_in", 5), ("print_progress", 1), ("print_level", 0)):
            mcmc.parameters[name] = value
        trace = Trace()
        with same_random_numbers(model):
            accepted = mcmc.run(model.prior.mean, tracer=trace)
        assert at_least <= accepted <= SAMPLES
        return np.concatenate([[accepted], trace.costs, whole(model, trace.last)])

    return run


def with_step(kernel, name, value):
    kernel.parameters[name] = value
    return kernel


def laplace_at_map(model):
    return hd.laplace(model, solve_map(model)[0])


class MisfitQoi(hp.Qoi):
    """A quantity of interest that PDE and surrogate share: the misfit."""

    def __init__(self, misfit):
        self.misfit = misfit

    def eval(self, x):
        return self.misfit.cost([x[hp.STATE], x[hp.PARAMETER], None])

    def grad(self, i, x, out):
        self.misfit.grad(i, x, out)

    def setLinearizationPoint(self, x):
        self.misfit.setLinearizationPoint(x)

    def apply_ij(self, i, j, direction, out):
        self.misfit.apply_ij(i, j, direction, out)


def taylor(model, qoi=None):
    """Taylor expansion of a quantity of interest; of second order it is exact here."""
    p2q = hp.Parameter2QoiMap(model.problem, qoi or MisfitQoi(model.misfit))
    expansion = hp.TaylorApproximationQoi(p2q, model.prior)
    expansion.computeLowRankFactorization(random_directions(model, min(10, model.prior.mean.size())))
    m = hd.data.draw_parameter(model.prior, 5, 2)
    values = [expansion.eval(m, order=order) for order in (1, 2)]
    assert values[1] == pytest.approx(p2q.reduced_eval(m), rel=1e-7)
    moments = [moment(order=order) for order in (1, 2) for moment in (expansion.expectedValue, expansion.variance)]
    return np.array([*values, *moments, expansion.q_bar])


def control_variate(model):
    p2q = hp.Parameter2QoiMap(model.problem, MisfitQoi(model.misfit))
    expansion = hp.TaylorApproximationQoi(p2q, model.prior)
    expansion.computeLowRankFactorization(random_directions(model, min(10, model.prior.mean.size())))
    with same_random_numbers(model), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        found = hp.varianceReductionMC(model.prior, p2q, expansion, 10, filename=os.devnull)
    assert found[7] < 1e-10 * found[5]  # the quadratic expansion leaves no variance
    return np.array(found[:7])


LOOPS = {
    "ReducedSpaceNewtonCG line search": newton("LS"),
    "ReducedSpaceNewtonCG trust region": newton("TR"),
    "BFGS": bfgs,
    "SteepestDescent": steepest_descent,
    "ReducedHessian": reduced_hessian,
    "doublePassG": eigenpairs(hp.doublePassG),
    "singlePassG": eigenpairs(hp.singlePassG),
    "MALAKernel": chain(lambda model: with_step(hp.MALAKernel(model), "delta_t", 0.02), 1),
    "pCNKernel": chain(lambda model: with_step(hp.pCNKernel(model), "s", 0.1), 1),
    "gpCNKernel": chain(lambda model: with_step(hp.gpCNKernel(model, laplace_at_map(model)), "s", 0.5), SAMPLES),
    "ISKernel": chain(lambda model: hp.ISKernel(model, laplace_at_map(model)), SAMPLES),
    "TaylorApproximationQoi": taylor,
    "varianceReductionMC": control_variate,
}


def map_and_laplace(model):
    """MAP by Newton, leading eigenvalues of its Laplace approximation.

    The cost of multiplicative noise has a large constant, in whose rounding a tighter line search ends.
    """
    x, solver = solve_map(model, rel_tolerance=1e-4)
    assert solver.converged
    posterior = hd.laplace(model, x, rank=3)
    return np.concatenate([whole(model, x[hp.PARAMETER]), posterior.d / posterior.d[0]])


def distance(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# ---- one rank --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs():
    """PDE and surrogate of each flavour."""
    models = {flavour: build(COMM, flavour) for flavour in FLAVOURS}
    return {flavour: (model, surrogate_of(model, exact_dino(model))) for flavour, model in models.items()}


@pytest.fixture(scope="module")
def on_the_pde(pairs):
    """What a loop gives on the PDE, once."""
    found = {}

    def run(loop, flavour):
        if (loop, flavour) not in found:
            found[loop, flavour] = LOOPS[loop](pairs[flavour][0])
        return found[loop, flavour]

    return run


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("loop", LOOPS)
def test_loop(pairs, on_the_pde, loop, flavour):
    found = LOOPS[loop](pairs[flavour][1])
    assert np.isfinite(found).all()
    assert distance(found, on_the_pde(loop, flavour)) < 1e-5


@pytest.mark.parametrize("loop", ["ReducedSpaceNewtonCG line search", "MALAKernel", "TaylorApproximationQoi"])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_loop_tells_a_wrong_surrogate(pairs, on_the_pde, flavour, loop):
    """Negative control: two percent in the Jacobian show."""
    model, surrogate = pairs[flavour]
    constant, jacobian = surrogate.dino.weights
    wrong = hd.DINO(
        surrogate.dino.architecture, [constant, 1.02 * jacobian], surrogate.dino.input_basis,
        surrogate.dino.output_basis, surrogate.dino.fingerprint,
    )  # fmt: skip
    assert distance(LOOPS[loop](surrogate_of(model, wrong)), on_the_pde(loop, flavour)) > 1e-4


# not every misfit has a meaning in every flavour: a whole state is no observable B u
CELLS = [(m, f) for f in FLAVOURS for m in MISFITS if m != "ContinuousStateObservation" or f == "state"]


@pytest.fixture(scope="module")
def on_one_rank(pairs):
    """PDE and surrogate with another misfit or prior, made once."""
    made = {}

    def pair(name, flavour):
        if (name, flavour) not in made:
            model = build(COMM, flavour, **{"misfit" if name in MISFITS else "prior": name})
            dino = pairs[flavour][1].dino if name in MISFITS else exact_dino(model)
            made[name, flavour] = model, surrogate_of(model, dino)
        return made[name, flavour]

    return pair


@pytest.mark.parametrize(("misfit", "flavour"), CELLS)
def test_misfit(on_one_rank, misfit, flavour):
    """MAP and Laplace approximation with any misfit on what the DINO of the flavour gives."""
    model, surrogate = on_one_rank(misfit, flavour)
    assert distance(map_and_laplace(surrogate), map_and_laplace(model)) < 1e-6


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("prior", PRIORS)
def test_prior(on_one_rank, prior, flavour):
    model, surrogate = on_one_rank(prior, flavour)
    assert distance(map_and_laplace(surrogate), map_and_laplace(model)) < 1e-6


@pytest.mark.filterwarnings("ignore")  # hIPPYlib calls its class experimental
def test_quantity_of_interest_of_the_decoded_state(pairs):
    """A form of u, for which only the decoded state will do."""
    model, surrogate = pairs["state"]
    spaces = model.problem.Vh
    integrand = lambda u, m: u**2 * dl.dx + m * u * dl.dx  # noqa: E731
    expected = taylor(model, hp.VariationalQoi(spaces, integrand))
    assert distance(taylor(surrogate, hp.VariationalQoi(spaces, integrand)), expected) < 1e-6


# ---- derivatives, of maps that are not affine ------------------------------------------------


@pytest.fixture(scope="module")
def curved():
    """Problems with eᵐ in front of the gradient, and their expansions of second order."""
    models = {flavour: build(COMM, flavour, nonlinear=True) for flavour in FLAVOURS}
    return {f: (m, hd.taylor_expansion(m, full_bases(m), order=2, progress=False)) for f, m in models.items()}


@pytest.mark.parametrize(("misfit", "flavour"), CELLS)
def test_cost_gradient_and_hessian_agree(curved, misfit, flavour):
    surrogate = surrogate_of(build(COMM, flavour, misfit=misfit, nonlinear=True), curved[flavour][1])
    m, direction = (hd.data.draw_parameter(surrogate.prior, 9, i) for i in (0, 1))
    steps = 2.0 ** -np.arange(5, 10)
    assert cost_rates(surrogate, m, direction, steps) == pytest.approx((1, 2, 3), abs=0.15)
    _, second, third = cost_rates(surrogate, m, direction, steps, scale=1.01)
    assert second < 1.9
    assert third < 2.5


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_adjoint_identity(curved, flavour, rng):
    """Jacobian of the surrogate, by all its entries."""
    model, dino = curved[flavour]
    surrogate = surrogate_of(model, dino)
    m, v = (hd.data.draw_parameter(surrogate.prior, 9, i) for i in (0, 1))
    J = surrogate.jacobian(m)
    w = rng.standard_normal(J.shape[0])
    expected = w @ J.to_dense() @ owned_values(v)
    assert w @ surrogate.jvp(m, v) == pytest.approx(expected)
    assert surrogate.vjp(m, w).inner(v) == pytest.approx(expected)
    assert (J.transpmult_block(w[:, None])[:, 0] @ owned_values(v)) == pytest.approx(expected)
    q, p = surrogate.generate_vector(hp.STATE), surrogate.generate_vector(hp.PARAMETER)
    J.mult(v, q)
    J.transpmult(q, p)
    assert p.inner(v) == pytest.approx(np.sum(surrogate.jvp(m, v) ** 2))
    local = J.transpmult_local(J.mult_local(owned_values(v)[:, None]))
    np.testing.assert_allclose(local[:, 0], owned_values(p), rtol=1e-10)


VARIABLES = {"u": hp.STATE, "m": hp.PARAMETER, "p": hp.ADJOINT}


@pytest.fixture(scope="module")
def networks(curved):
    """A network with random weights and full bases in each flavour: third derivatives of all kinds."""
    found, rng = {}, np.random.default_rng(4)
    for flavour, (model, dino) in curved.items():
        network = ReducedDense(dino.input_basis.rank, dino.output_basis.rank, "tanh", hidden=(8, 7))
        weights = [rng.standard_normal(shape) for shape in network.weight_shapes()]
        random = hd.DINO(network, weights, dino.input_basis, dino.output_basis, dino.fingerprint)
        found[flavour] = surrogate_of(model, random)
    return found


def third_variation(model, variables, rng):
    """What the problem answers, the difference of second variations, and the size of what was subtracted."""
    problem = model.problem
    i, j, k = (VARIABLES[v] for v in variables)

    def draw(variable):
        if variable == hp.PARAMETER:
            return hd.data.draw_parameter(model.prior, 9, int(rng.integers(100)))
        vector = problem.generate_state()
        set_owned_values(vector, rng.standard_normal(vector.local_size()))
        return vector

    x = [draw(variable) for variable in (hp.STATE, hp.PARAMETER, hp.ADJOINT)]
    along_j, along_k = draw(j), draw(k)

    def second(step):
        moved = [vector.copy() for vector in x]
        moved[k].axpy(step, along_k)
        out = draw(i)
        problem.setLinearizationPoint(moved, gauss_newton_approx=False)
        problem.apply_ij(i, j, along_j, out)
        return owned_values(out)

    h = 1e-4
    expected = (second(h) - second(-h)) / (2 * h)
    out = draw(i)
    problem.apply_ijk(i, j, k, x, along_j, along_k, out)
    return owned_values(out), expected, np.abs(second(0.0)).max() + np.abs(expected).max()


CUBIC = ("pmm", "mpm", "mmp", "mmm")  # the residual is linear in u and p: no other third variation is there


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("variables", CUBIC)
def test_third_variation_is_the_derivative_of_the_second(networks, flavour, variables, rng):
    found, expected, scale = third_variation(networks[flavour], variables, rng)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)
    assert np.abs(expected).max() > 1e-3 * scale


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_other_third_variations_vanish(networks, flavour, rng):
    for variables in {"".join(v) for v in itertools.product("ump", repeat=3)} - set(CUBIC):
        found, expected, scale = third_variation(networks[flavour], variables, rng)
        np.testing.assert_allclose(expected, 0, rtol=0, atol=1e-5 * scale, err_msg=variables)
        assert not found.any(), variables


# ---- from data to surrogate ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flavour", "prior"),
    [("state", "BiLaplacianPrior"), ("time", "LaplacianPrior"), ("observable", "GaussianRealPrior")],
)
def test_generated_dataset_gives_the_surrogate(tmp_path, flavour, prior):
    """The affine map in generated bases: what is left out of them is small."""
    model = build(COMM, flavour, prior=prior)
    rank = min(8, model.prior.mean.size())
    dataset = hd.generate(
        model, tmp_path / "data", n_samples=16, n_validation=1, n_test=1, input_rank=rank, output_rank=rank,
        n_basis_samples=12, output_basis="pod" if flavour == "state" else "derivative", progress=False,
    )  # fmt: skip
    surrogate = surrogate_of(model, hd.taylor_expansion(model, dataset, progress=False))
    exact, found = map_and_laplace(model), map_and_laplace(surrogate)
    assert distance(found, exact) < 0.05
    assert surrogate.dino.evaluate(dataset)["observable"] < 0.1


# ---- bad input -------------------------------------------------------------------------------


class FiniteNearby(LatentMap):
    """A map that gives NaN off its training range."""

    def __init__(self, inner, radius):
        self._inner, self._radius = inner, radius
        self.input_rank, self.output_rank = inner.input_rank, inner.output_rank

    def _spoiled(self, x, array):
        return array if np.linalg.norm(x) <= self._radius else np.full_like(array, np.nan)

    def value(self, x):
        return self._spoiled(x, self._inner.value(x))

    def value_and_jacobian(self, x):
        return tuple(self._spoiled(x, array) for array in self._inner.value_and_jacobian(x))

    def hessian_action(self, x, weights, direction):
        return self._inner.hessian_action(x, weights, direction)


def spoiled(model, dino, radius):
    twin = hd.DINO(dino.architecture, dino.weights, dino.input_basis, dino.output_basis, dino.fingerprint)
    twin.latent_map = FiniteNearby(dino.latent_map, radius)
    return surrogate_of(model, twin)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_line_search_takes_nan_as_a_failed_solve(pairs, flavour):
    model, surrogate = pairs[flavour]
    solver = hp.ReducedSpaceNewtonCG(
        spoiled(model, surrogate.dino, 1e-9), quiet(hp.ReducedSpaceNewtonCG_ParameterList())
    )
    solver.solve([None, model.prior.mean.copy(), None])
    assert not solver.converged
    assert solver.termination_reasons[solver.reason] == "Forward solve failed"
    # where a part of the step stays in the range, the search goes on from there
    x = solve_map(surrogate)[0]
    reach = np.linalg.norm(surrogate.problem.evaluate(x[hp.PARAMETER]).x)
    x, solver = solve_map(spoiled(model, surrogate.dino, 1.01 * reach))
    assert solver.converged


def escape(loop):
    return {
        "trust region": newton("TR"), "BFGS": bfgs, "SteepestDescent": steepest_descent,
        "MALAKernel": LOOPS["MALAKernel"], "pCNKernel": LOOPS["pCNKernel"],
    }[loop]  # fmt: skip


@pytest.mark.parametrize("loop", ["trust region", "BFGS", "SteepestDescent", "MALAKernel", "pCNKernel"])
def test_other_loops_stop_with_the_reason(pairs, loop):
    model, surrogate = pairs["observable"]
    message = r"not finite at a parameter with \|x\| = .*; samples of the prior, on which it was trained, have about 5"
    with pytest.raises(ModelConvergenceError, match=message):
        escape(loop)(spoiled(model, surrogate.dino, 1e-9))


def test_state_space_is_asked_for(pairs):
    model, surrogate = pairs["state"]
    with pytest.raises(InputError, match=r"state_space: expected the state space .* pass state_space=pde.Vh"):
        hd.SurrogateModel(surrogate.dino, model.prior, model.misfit)


def test_state_space_of_another_element_is_refused(pairs):
    model, surrogate = pairs["state"]
    finer = dl.FunctionSpace(model.prior.Vh.mesh(), "Lagrange", 2)
    with pytest.raises(FingerprintError, match="another state space: element was"):
        hd.SurrogateModel(surrogate.dino, model.prior, model.misfit, state_space=finer)


def test_misfit_on_another_space_is_refused(pairs):
    model, surrogate = pairs["state"]
    finer = dl.FunctionSpace(model.prior.Vh.mesh(), "Lagrange", 2)
    with pytest.raises(MisfitError, match="acts on the 25 coefficients of the state, got one for 81"):
        surrogate_of(
            _with_misfit(model, affine_problems.misfit_named("DiscreteStateObservation", finer, None)), surrogate.dino
        )
    with pytest.raises(MisfitError, match=r"an hp\.MisfitTD acts on trajectories"):
        surrogate_of(_with_misfit(model, pairs["time"][0].misfit), surrogate.dino)


def _with_misfit(model, misfit):
    return SimpleNamespace(problem=model.problem, prior=model.prior, misfit=misfit)


@pytest.mark.parametrize("flavour", ["observable", "time"])
def test_whole_state_misfit_on_observables_is_refused(pairs, flavour):
    model, surrogate = pairs[flavour]
    with pytest.raises(
        MisfitError, match=r"this DINO gives \d+ observables B u, ContinuousStateObservation acts on whole"
    ):
        surrogate_of(_with_misfit(model, pairs["state"][0].misfit), surrogate.dino)


@pytest.mark.parametrize("change", ["times", "sensors", "members"])
def test_other_times_or_sensors_are_refused(pairs, change):
    model, surrogate = pairs["time"]
    members, times = list(model.misfit.misfits), list(model.misfit.sim_times)
    if change == "times":
        times[0] = model.problem.times[2]
    elif change == "sensors":
        B = hp.assemblePointwiseObservation(model.problem.Vh[hp.STATE], affine_problems.sensors(3) + 0.02)
        members[1] = hp.DiscreteStateObservation(B, noise_variance=1e-2)
    else:
        members, times = members[:1], times[:1]
    with pytest.raises(FingerprintError, match=r"another observation (rows|operator): (norms|size|times) was"):
        hd.SurrogateModel(surrogate.dino, model.prior, hp.MisfitTD(members, times))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_data_of_another_length_are_named(pairs, flavour):
    model = build(COMM, flavour)
    misfit = model.misfit.misfits[1] if flavour == "time" else model.misfit
    surrogate, right = surrogate_of(model, pairs[flavour][1].dino), misfit.d
    x = surrogate.generate_vector()
    misfit.d = dl.Vector(COMM, 7)
    if flavour == "state":  # the user's misfit is used as it is, and dolfin says so at each call
        with pytest.raises(MisfitError, match="expected 25 data, got 7"):
            surrogate_of(model, surrogate.dino)
    else:
        where = r"misfits\[1\]: data" if flavour == "time" else "data"
        with pytest.raises(MisfitError, match=rf"^{where}: expected a vector of 9 observables .*, got 7"):
            surrogate.cost(x)
    misfit.d = right
    surrogate.cost(x)


def test_time_dependent_data_and_noise_are_read_at_each_call(pairs):
    """Also of a member that takes the place of another."""
    model = build(COMM, "time")
    surrogate = surrogate_of(model, pairs["time"][1].dino)
    x = surrogate.generate_vector()
    x[hp.PARAMETER].axpy(1.0, model.prior.mean)
    surrogate.solveFwd(x[hp.STATE], x)
    state = model.solveState(model.prior.mean)
    members = model.misfit.misfits

    def expected():
        return model.misfit.cost([state, model.prior.mean, None])

    before = expected()
    assert surrogate.cost(x)[2] == pytest.approx(before)
    members[0].noise_variance = 2e-2
    assert surrogate.cost(x)[2] == pytest.approx(expected())
    assert surrogate.noise_covariance.value == pytest.approx(np.repeat([2e-2, 1e-2], 9))
    members[1] = hd.CovarianceStateObservation(members[1].B, members[1].d, noise_covariance=np.linspace(1.0, 2.0, 9))
    assert surrogate.cost(x)[2] == pytest.approx(expected())
    assert expected() < 0.9 * before


# ---- two ranks -------------------------------------------------------------------------------

WITHOUT_CHANCE = tuple(LOOPS)[:5]  # others draw numbers, whose order depends on the partition
OTHER_PRIORS = PRIORS[1:]
ON_TWO_RANKS = [
    *((loop, flavour) for loop in LOOPS for flavour in FLAVOURS),
    *(cell for cell in CELLS if cell != ("MultDiscreteStateObservation", "state")),
    *((prior, flavour) for prior in OTHER_PRIORS for flavour in FLAVOURS),
]


def compared_there(name, flavour):
    """Whether with the PDE on two ranks: not where it is slow, and not where hIPPYlib's gradient is wrong there."""
    return flavour != "time" and name != "MultDiscreteStateObservation"


def on_all_ranks(comm, folder):
    """Every cell on a partitioned mesh: what the surrogate gives, and how far that is from the PDE."""
    dl.parameters["dof_ordering_library"] = "Boost"  # dolfin's SCOTCH fails on a rank without a number of a Real space
    distances, answers = {}, {}

    def run(name, flavour, dino, loop=map_and_laplace, **changes):
        cell, model = f"{name}-{flavour}", build(comm, flavour, **changes)
        answers[cell] = loop(surrogate_of(model, hd.DINO.load(f"{folder}/{dino}.dino")))
        if compared_there(name, flavour):
            distances[cell] = distance(answers[cell], loop(model))

    for name, flavour in ON_TWO_RANKS:
        if name in LOOPS:
            run(name, flavour, flavour, LOOPS[name])
        elif name in MISFITS:
            run(name, flavour, flavour, misfit=name)
        else:
            run(name, flavour, f"{name}-{flavour}", prior=name)
    with pytest.raises(MisfitError, match=r"hIPPYlib's gradient of hp\.MultDiscreteStateObservation is wrong"):
        run("MultDiscreteStateObservation", "state", "state", misfit="MultDiscreteStateObservation")
    if comm.rank == 0:
        Path(folder, "distances.json").write_text(json.dumps(distances))
        np.savez(f"{folder}/answers.npz", **answers)


@pytest.fixture(scope="module")
def two_ranks(pairs, on_one_rank, run_python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    for flavour, (_, surrogate) in pairs.items():
        surrogate.dino.save(folder / f"{flavour}.dino")
        for prior in OTHER_PRIORS:
            on_one_rank(prior, flavour)[1].dino.save(folder / f"{prior}-{flavour}.dino")
    code = f"""
import gc
gc.disable()  # it would delete matrices at other times on each rank, and that is collective
import hippylib_dino as hd
from tests.surrogate import test_loops
test_loops.on_all_ranks(hd.sample_communicator(None), {str(folder)!r})
"""
    run_python(code, ranks=2, OMP_NUM_THREADS="1", OMPI_MCA_mpi_yield_when_idle="1")
    return json.loads((folder / "distances.json").read_text()), np.load(folder / "answers.npz")


@pytest.mark.parametrize(("name", "flavour"), ON_TWO_RANKS)
def test_cell_on_two_ranks(two_ranks, on_the_pde, on_one_rank, name, flavour):
    distances, cell = two_ranks[0], f"{name}-{flavour}"
    found = two_ranks[1][cell]
    assert np.isfinite(found).all()
    if compared_there(name, flavour):
        assert distances[cell] < 1e-5
    if name in WITHOUT_CHANCE:
        assert distance(found, on_the_pde(name, flavour)) < 1e-5
    elif name not in LOOPS:
        assert distance(found, map_and_laplace(on_one_rank(name, flavour)[1])) < 1e-5

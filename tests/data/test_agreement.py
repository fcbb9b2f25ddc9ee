"""Groups of ranks that hold different problems: one error before they share any work, in every loop that does."""

import pytest

LOOPS = ("generate", "append", "enrich", "control_variate", "PDECriteria", "run_chains", "PDEEnsemble")
SAID = {
    "noise": "noise covariance: 0.0001 on rank 0; 0.00012 on rank 1",
    "prior": "prior, ",
    "sensors": "observation",
    "mesh": "81",
    "equation": "observable at the prior mean",
}
OF_ENSEMBLE = {"prior": SAID["prior"], "mesh": "49", "equation": "state at the prior mean"}
REMEDIES = ("np.random.default_rng(seed)", "MPI.COMM_WORLD.bcast(value)")

SCRIPT = """
import pathlib
import dolfin as dl, hippylib as hp, numpy as np
import hippylib_dino as hd
from hippylib_dino.network import ReducedDense
from hippylib_dino.oed.pde import PDECriteria
from mpi4py import MPI
from tests import control_problems, problems

world, folder = MPI.COMM_WORLD, {folder!r}
dl.set_log_level(dl.LogLevel.ERROR)

def build(what=None):
    "`problems.linear`, of which rank 1 has another one in one thing."
    other = world.rank == 1
    n, delta, place, variance, factor = (
        b if other and what == name else a
        for name, a, b in (("mesh", 8, 9), ("prior", 1.0, 1.1), ("sensors", 0.0, 0.03), ("noise", 1e-4, 1.2e-4),
                           ("equation", 1.0, 1.3))
    )
    space = dl.FunctionSpace(dl.UnitSquareMesh(hd.sample_communicator(), n, n), "Lagrange", 1)
    scale = dl.Constant(factor)
    def residual(u, m, p):
        return dl.inner(dl.grad(u), dl.grad(p)) * dl.dx + u * p * dl.dx - scale * m * p * dl.dx
    pde = hp.PDEVariationalProblem([space] * 3, residual, [], [], is_fwd_linear=True)
    mean = dl.interpolate(dl.Expression("sin(3*x[0]) + x[1]", degree=2), space).vector()
    prior = hp.BiLaplacianPrior(space, 0.2, delta, mean=mean, robin_bc=True, solver_type="lu")
    B = hp.assemblePointwiseObservation(space, problems.sensors(3) + place)
    return hd.JacobianModel(pde, prior, hp.DiscreteStateObservation(B, noise_variance=variance))

def build_control(what=None):
    other = world.rank == 1
    model = control_problems.build("wells" if other and what == "equation" else "bent", hd.sample_communicator(),
                                   n=7 if other and what == "mesh" else 6)
    if other and what == "prior":
        prior = hp.BiLaplacianPrior(model.prior.Vh, 0.2, 1.1, robin_bc=True, solver_type="lu")
        model = hd.JacobianModel(model.problem, prior, model.misfit, control=model.control_distribution)
    return model

reference = build()
dataset = hd.generate(reference, folder + "/d", n_samples=4, n_validation=1, n_test=1, n_basis_samples=2, input_rank=4,
                      output_rank=4, progress=False)
net = ReducedDense(4, 4, hidden=())
dino = hd.DINO(architecture=net, weights=[np.eye(4), np.zeros(4)], input_basis=dataset.input_basis,
               output_basis=dataset.output_basis, fingerprint=dataset.fingerprint)
surrogate = hd.SurrogateModel(dino, reference.prior, reference.misfit)

def run(loop, what):
    if loop == "PDEEnsemble":
        model = build_control(what)
        hd.ouu.PDEEnsemble.draw(model, control_problems.soupy_quantity(model.problem), 3, seed=5)
        return
    model = build(what)
    if loop == "generate":
        hd.generate(model, folder + "/" + what, n_samples=4, n_validation=1, n_test=1, n_basis_samples=2, input_rank=4,
                    output_rank=4, progress=False)
    if loop == "append":
        rows = np.tile(dataset.input_basis.shift, (2, 1))
        hd.data.append(model, dataset, rows, ["mean"] * 2, progress=False)
    if loop == "enrich":
        hd.enrich(surrogate, model, dataset, max_solves=20, progress=False)
    if loop == "control_variate":
        hd.uq.control_variate(lambda q: q[:, 0], model, surrogate, n_pde=41, n_surrogate=100, progress=False)
    if loop == "PDECriteria":
        PDECriteria(model, n_draws=1).evaluate([[0], [1, 2]])
    if loop == "run_chains":
        kernel = hp.mcmc.kernels.pCNKernel(model)
        hd.mcmc.run_chains(kernel, n_samples=4, quantities={{"norm": lambda x: x[1].norm("l2")}}, progress=False)

for loop in {loops}:
    for what in {of_ensemble} if loop == "PDEEnsemble" else {cases}:
        try:
            run(loop, what)
            said = "nothing|"
        except Exception as error:
            said = type(error).__name__ + "|" + str(error)
        print("CASE", loop, what, world.rank, said.replace("\\n", " "), sep="|", flush=True)
rows = np.tile(dataset.input_basis.shift, (2, 1))
try:
    hd.data.append(reference, dataset, rows[:, world.rank :], ["mean"] * 2, progress=False)
except hd.errors.InputError as error:
    print("CASE", "append", "shape", world.rank, type(error).__name__, error, sep="|", flush=True)
written = [path.name for path in pathlib.Path(folder).iterdir() if path.name != "d"] + list(dataset.reopened().given)
print("CASE", "written", "by", world.rank, "nothing" if not written else repr(written), "", sep="|", flush=True)
"""


@pytest.fixture(scope="module")
def said(run_python, tmp_path_factory):
    """What each rank raised, by loop and by what differs; one run for all, that ends only if no rank waits for ever."""
    code = SCRIPT.format(
        folder=str(tmp_path_factory.mktemp("agreement")), loops=LOOPS, cases=list(SAID), of_ensemble=list(OF_ENSEMBLE)
    )
    lines = run_python(code, ranks=2, timeout=400).stdout.splitlines()
    cases = [line.split("|", 5)[1:] for line in lines if line.startswith("CASE|")]
    return {(loop, what, int(rank)): (kind, message) for loop, what, rank, kind, message in cases}


@pytest.mark.parametrize("loop", LOOPS)
def test_ranks_with_different_problems_are_told_so_before_they_share_work(said, loop):
    for what, named in (OF_ENSEMBLE if loop == "PDEEnsemble" else SAID).items():
        for rank in range(2):
            kind, message = said[loop, what, rank]
            assert kind == "AgreementError", (what, rank, message)
            assert message.startswith("model: the ranks of this run do not hold the same."), (what, rank)
            assert named in message, (what, rank, message)
            assert "on rank 0; " in message
            assert "on rank 1" in message
            assert all(remedy in message for remedy in REMEDIES)


def test_what_one_rank_alone_finds_wrong_all_are_told(said):
    for rank in range(2):
        kind, message = said["append", "shape", rank]
        assert kind == "InputError"
        assert message.startswith("parameters: expected shape (k, 81)")
        assert "got (2, 80)" in message


def test_nothing_was_written(said):
    """Neither datasets nor samples in the one that was there."""
    assert all(said["written", "by", rank] == ("nothing", "") for rank in range(2))

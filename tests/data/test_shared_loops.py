"""Loops that share work among groups of ranks, with a time-dependent problem."""

import hippylib_dino as hd

LOOPS = ("generate", "append", "control_variate", "PDECriteria", "run_chains", "enrich")

PREPARE = """
import time
import dolfin as dl, hippylib as hp, numpy as np
import hippylib_dino as hd
from hippylib_dino.network import ReducedDense
from mpi4py import MPI
from tests import problems
world = MPI.COMM_WORLD

def dino_of(model, path):
    "An untrained network in the bases of a small dataset."
    dataset = hd.generate(model, path, n_samples=6, n_validation=1, n_test=2, n_basis_samples=3, input_rank=4,
                          output_rank=4, progress=False)
    net = ReducedDense(4, 4, hidden=())
    weights = [np.linspace(-1.0, 1.0, 16).reshape(4, 4), np.zeros(4)]
    return dataset, hd.DINO(architecture=net, weights=weights, input_basis=dataset.input_basis,
                            output_basis=dataset.output_basis, fingerprint=dataset.fingerprint)
"""

# ---- time-dependent problems -------------------------------------------------------------

IN_TIME = (
    PREPARE
    + """
model = problems.heat(hd.sample_communicator())
solve_state = hd.JacobianModel.solveState
def unequal(self, m, guess=None):
    "Rank 1 takes its time, and makes its vectors while rank 0 waits."
    time.sleep(0.05 * world.rank)
    return solve_state(self, m, guess)
hd.JacobianModel.solveState = unequal

def tell(loop):
    print("FINISHED", loop, world.rank, flush=True)

dataset, dino = dino_of(model, {folder!r} + "/d")
tell("generate")
dataset = hd.data.append(model, dataset, np.tile(dataset.input_basis.shift, (3, 1)), ["mean"] * 3, progress=False)
tell("append")
for member in model.misfit.misfits:
    member.d.zero()
surrogate = hd.SurrogateModel(dino, model.prior, model.misfit)
kernel = hd.mcmc.PDEKernel(model, dino.input_basis, hd.mcmc.PCN(step=0.5))
hd.mcmc.run_chains(kernel, n_chains=3, n_samples=2, burn_in=0, progress=False)
tell("run_chains")
hd.uq.control_variate(lambda q: q[:, 0], model, surrogate, n_pde=41, n_surrogate=100, progress=False)
tell("control_variate")
from hippylib_dino.oed.pde import PDECriteria
PDECriteria(model, n_draws=1).evaluate([[0], [1, 2], [3]])
tell("PDECriteria")
# an untrained network's MAP point lies some sixty deviations from the prior mean: the state sees no parameter there,
# and a Jacobian of 1e-9 must not weigh 1e18 in the relative loss, which ended in "training diverged"
result = hd.enrich(surrogate, model, dataset, max_solves=7, n_per_round=3, epochs=3, progress=False)
assert len(result.dataset.given) == 6 and np.abs(result.dataset.x).max() > 30, result.dataset.given
tell("enrich")
try:
    hd.ouu.PDEEnsemble.draw(model, None, 3, seed=5)
except hd.errors.InputError as error:
    print("REFUSED", error, flush=True)
"""
)


def test_time_dependent_problem_in_loops_that_share_work(run_python, tmp_path):
    """hIPPYlib makes vectors on the world's communicator, while ranks solve unequal numbers of samples."""
    out = run_python(IN_TIME.format(folder=str(tmp_path)), ranks=2).stdout
    for loop in LOOPS:
        assert out.count(f"FINISHED {loop} ") == 2
    assert out.count("REFUSED model: expected one of an hd.ControlProblem, got one of") == 2
    assert hd.Dataset.open(tmp_path / "d").verify() >= 15

"""Optima and assessments by the PDE: the same on one rank and on two, resumed or not."""

import numpy as np

CODE = """
import dolfin as dl, numpy as np
from mpi4py import MPI
import hippylib_dino as hd
from tests import control_problems


class Half(hd.ouu.Ensemble):  # a surrogate of the PDE that sees half of the control
    def __init__(self, pde):
        self.pde, self.n, self.n_control = pde, pde.n, pde.n_control

    def quantity(self, z):
        return self.pde.quantity(z / 2)

    def quantity_and_jacobian(self, z):
        q, jacobian = self.pde.quantity_and_jacobian(z / 2)
        return q, jacobian / 2

    def hessian_actions(self, z, direction):
        return self.pde.hessian_actions(z / 2, direction / 2) / 2


dl.set_log_level(dl.LogLevel.ERROR)
model = control_problems.build("wells", hd.sample_communicator())
form = hd.ouu.tracking(model.problem.Vh, dl.Constant(0.7))
ensemble = hd.ouu.PDEEnsemble.draw(model, form, 5, seed=3)
for risk, joint in ((hd.ouu.CVaR(0.6, 0.01), True), (hd.ouu.MeanVariance(3.0), False)):
    objective = hd.ouu.Objective(ensemble, risk, [hd.ouu.L2Penalty(1e-2)], joint=joint)
    options = dict(bounds=(-2, 2), progress=False, path={path!r} + type(risk).__name__, resume=True)
    stopped = hd.ouu.minimize(objective, np.zeros(3), max_iterations=3, **options)
    found = hd.ouu.minimize(objective, np.zeros(3), max_iterations=60, **options)
    whole = hd.ouu.minimize(objective, np.zeros(3), max_iterations=60, bounds=(-2, 2), progress=False)
    assert np.allclose(found.z, whole.z, rtol=0, atol=1e-5), (found.z, whole.z)
    assert found.value < stopped.value < stopped.history[0].value
    rough = hd.ouu.Objective(Half(ensemble), risk, objective.penalties)
    rough = hd.ouu.minimize(rough, np.zeros(3), max_iterations=60, bounds=(-2, 2), progress=False)
    polished = found  # nothing polishes t
    if not joint:
        few = dict(bounds=(-2, 2), progress=False, tolerance=1e-7, max_evaluations=30)
        start = rough.z + 1e-3 * MPI.COMM_WORLD.rank  # that of the first rank counts
        polished = hd.ouu.polish(objective, Half(ensemble), start, **few)
        assert np.abs(rough.z - found.z).max() > 1e-2
        assert np.allclose(polished.z, found.z, rtol=0, atol=3e-3), (polished.z, found.z)
    judged = hd.ouu.assess(objective, found.z, bounds=(-2, 2), n_bootstrap=20)
    everyone = MPI.COMM_WORLD.allgather((*found.z, judged.risk.value, *polished.z))
    assert all(entry == everyone[0] for entry in everyone)
    if MPI.COMM_WORLD.rank == 0:
        print("found", *everyone[0], np.abs(judged.projected_gradient).max(), found.history[0].gradient_norm)
"""


def test_one_and_two_ranks_give_the_same(run_python, tmp_path):
    found = []
    for ranks in (1, 2):
        printed = run_python(CODE.format(path=str(tmp_path / f"on{ranks}-")), ranks=ranks).stdout
        lines = [line.split()[1:] for line in printed.splitlines() if line.startswith("found")]
        found.append(np.array(lines, dtype=float))
    assert found[0].shape == (2, 9)
    np.testing.assert_allclose(found[1][:, :7], found[0][:, :7], atol=1e-4)
    assert (found[0][1:, 7] < 1e-3 * found[0][1:, 8]).all()

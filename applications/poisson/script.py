"""A first script: log-coefficient Poisson, from a hIPPYlib model to a MAP point by a DINO.

-div(exp(m) grad u) = 0 on the unit square, u = y on top and bottom

python -m applications.poisson.script              # or mpirun -n 2 python -m ...
"""

from __future__ import annotations

from pathlib import Path

import dolfin as dl
import hippylib as hp
import numpy as np
import typer
from mpi4py import MPI

import hippylib_dino as hd


def build(comm: MPI.Comm, mesh_size: int = 32) -> hd.JacobianModel:
    """PDE (P2 state, P1 parameter), prior and misfit, as in any hIPPYlib script."""
    mesh = dl.UnitSquareMesh(comm, mesh_size, mesh_size)
    state_space = dl.FunctionSpace(mesh, "Lagrange", 2)
    parameter_space = dl.FunctionSpace(mesh, "Lagrange", 1)

    def residual(u, m, p):
        return dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p)) * dl.dx - dl.Constant(0.0) * p * dl.dx

    top_and_bottom = "on_boundary && (x[1] < DOLFIN_EPS || x[1] > 1.0 - DOLFIN_EPS)"
    bc = dl.DirichletBC(state_space, dl.Expression("x[1]", degree=1), top_and_bottom)
    bc0 = dl.DirichletBC(state_space, dl.Constant(0.0), top_and_bottom)
    spaces = [state_space, parameter_space, state_space]
    pde = hd.AcceleratedVariationalProblem(spaces, residual, bc, bc0, is_fwd_linear=True)

    prior = hp.BiLaplacianPrior(parameter_space, 0.1, 0.5, robin_bc=True, solver_type="lu")
    points = np.array([(x, y) for x in np.linspace(0.2, 0.8, 5) for y in np.linspace(0.2, 0.8, 5)])
    misfit = hp.DiscreteStateObservation(hp.assemblePointwiseObservation(state_space, points))
    misfit.noise_variance = 0.005**2
    return hd.JacobianModel(pde, prior, misfit)  # instead of hp.Model(pde, prior, misfit)


def main(
    output: Path = Path("poisson-output"), mesh_size: int = 32, n_samples: int = 256, epochs: int | None = None
) -> None:
    """Generate, train, solve for the MAP point with PDE and surrogate."""
    dl.set_log_level(dl.LogLevel.ERROR)
    model = build(hd.sample_communicator(), mesh_size)
    dataset = hd.generate(
        model, output / "dataset", n_samples=n_samples, input_rank=min(24, n_samples), output_rank=24, resume=True
    )
    if MPI.COMM_WORLD.rank > 0:
        return  # the ranks shared the PDE solves; one trains

    dino = hd.train(dataset, epochs=epochs)
    errors = dino.evaluate(dataset)
    dino.save(output / "poisson.dino", overwrite=True)

    truth = hd.data.draw_parameter(model.prior, seed=2026, index=0)
    noise = model.noise_covariance.sample(np.random.default_rng(2026))
    hd.modeling.set_owned_values(model.misfit.d, model.evalObservable(truth) + noise)

    surrogate = hd.SurrogateModel(dino, model.prior, model.misfit)
    maps = {}
    for name, candidate in (("PDE", model), ("surrogate", surrogate)):
        parameters = hp.ReducedSpaceNewtonCG_ParameterList()
        parameters["print_level"] = -1
        solver = hp.ReducedSpaceNewtonCG(candidate, parameters)
        x = solver.solve([None, model.prior.mean.copy(), None])
        maps[name] = x[hp.PARAMETER]
        converged = solver.converged or hd.modeling.stopped_by_rounding(candidate, x)
        print(f"{name}: converged {converged} in {solver.it} iterations, cost {solver.final_cost:.4f}")

    gap = maps["surrogate"] - maps["PDE"]
    distance = np.sqrt(gap.inner(model.prior.M * gap) / maps["PDE"].inner(model.prior.M * maps["PDE"]))
    print(f"held-out errors: observable {errors['observable']:.2%}, Jacobian {errors['jacobian']:.2%}")
    print(f"  mean Jacobian: observable {errors['observable_affine']:.2%}, Jacobian {errors['jacobian_affine']:.2%}")
    print(f"surrogate MAP against PDE MAP, mass norm: {distance:.2%}")


if __name__ == "__main__":
    typer.run(main)

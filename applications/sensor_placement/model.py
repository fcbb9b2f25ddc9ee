"""Where to measure in the convection-reaction-diffusion problem: a grid of candidates over the whole square.

PDE, prior and relative noise are those of `applications.confusion`; see there.
"""

from __future__ import annotations

import hippylib as hp
import numpy as np
from mpi4py import MPI

import hippylib_dino as hd
from applications import confusion
from applications.confusion.model import RELATIVE_NOISE


def candidate_points(n: int = 10) -> np.ndarray:
    """Candidate sensors, (n², 2), row by row from the bottom."""
    grid = np.linspace(0.1, 0.9, n)
    return np.array([(x, y) for y in grid for x in grid])


def build(comm: MPI.Comm, mesh_size: int = 64, n_candidates_a_side: int = 10) -> hd.JacobianModel:
    """The inverse problem with all candidates observed, on a `mesh_size` x `mesh_size` grid distributed over `comm`."""
    paper = confusion.build(comm, mesh_size)
    points = candidate_points(n_candidates_a_side)
    misfit = hp.DiscreteStateObservation(hp.assemblePointwiseObservation(paper.problem.Vh[hp.STATE], points))
    model = hd.JacobianModel(paper.problem, paper.prior, misfit)
    misfit.noise_variance = (RELATIVE_NOISE * np.abs(model.evalObservable(model.prior.mean)).max()) ** 2
    return model

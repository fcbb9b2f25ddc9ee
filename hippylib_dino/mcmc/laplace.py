"""The surrogate's Laplace approximation of its posterior in latent coordinates: where the chains' mass is."""

from __future__ import annotations

import numpy as np

from hippylib_dino.errors import SolveError
from hippylib_dino.inference.newton import solve
from hippylib_dino.mcmc.potentials import SurrogatePotential
from hippylib_dino.mcmc.proposals import Metric
from hippylib_dino.random_streams import Purpose, generator

N_SEARCHES, TOLERANCE, MAX_ITER = 8, 1e-4, 100  # the gradient's norm is relative to that at the prior mean


class LatentLaplace:
    """N(x*, (I + H)⁻¹) with x* the surrogate's MAP point in latent coordinates and H its Gauss-Newton Hessian there.

    x* is the best of what is found from the prior mean and from a few draws of the prior.

    Parameters
    ----------
    potential : SurrogatePotential

    Raises
    ------
    SolveError
        If the surrogate has no finite answer wherever the search started.

    Attributes
    ----------
    mean : ndarray, (rM,)
        x*.
    """

    def __init__(self, potential: SurrogatePotential):
        rank = potential.map.input_rank
        draws = generator(Purpose.MAP_SEARCH).standard_normal((N_SEARCHES - 1, rank))
        found = solve(
            potential.map, potential.decoder.T, np.tile(potential.data, (N_SEARCHES, 1)),
            np.vstack([np.zeros(rank), draws]), rel_tolerance=TOLERANCE, max_iter=MAX_ITER,
        )  # fmt: skip
        if not np.isfinite(found.cost).any():
            raise SolveError("the network gave values that are not finite wherever the search of its MAP point began.")
        self.mean = found.x[np.argmin(found.cost)]
        self._metric = Metric(potential.decoder @ potential.map.jacobian(self.mean))

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A sample (rM,)."""
        return self.mean + self._metric.draw(rng)

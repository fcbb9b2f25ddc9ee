"""The trained DINO in place of the PDE: an `hp.Model` for hIPPYlib's own loops."""

from __future__ import annotations

import dolfin as dl
import hippylib as hp
import numpy as np

from hippylib_dino.modeling.fingerprint import check_fingerprint, operator_fingerprint, prior_fingerprint
from hippylib_dino.modeling.jacobian import Jacobian
from hippylib_dino.modeling.observable_map import ParameterToObservable
from hippylib_dino.modeling.observation import NoiseCovariance, ObservableMisfit, noise_covariance
from hippylib_dino.network.dino import DINO
from hippylib_dino.surrogate.problem import SurrogateProblem


class SurrogateModel(ParameterToObservable, hp.Model):
    """DINO, prior and the user's misfit as an `hp.Model`; the state is the observable.

    Data and noise are read from `misfit` at each call, so scripts may change them in place.

    Parameters
    ----------
    dino : DINO
    prior : hIPPYlib prior
    misfit : hp.Misfit
        The one of the PDE's model, with observation operator ``B``.

    Raises
    ------
    FingerprintError
        If mesh, parameter space, prior or observation operator are not those the DINO was trained for.
    MisfitError
        If the misfit has no observation operator.

    Examples
    --------
    ::

        surrogate = hd.SurrogateModel(hd.DINO.load("confusion.dino"), model.prior, model.misfit)
        solver = hp.ReducedSpaceNewtonCG(surrogate, hp.ReducedSpaceNewtonCG_ParameterList())
        x = solver.solve([None, model.prior.mean.copy(), None])
    """

    def __init__(self, dino: DINO, prior, misfit: hp.Misfit):
        observable_misfit = ObservableMisfit(misfit)
        here = {**prior_fingerprint(prior), **operator_fingerprint(misfit)}
        check_fingerprint(dino.fingerprint, here, "dino: it")
        problem = SurrogateProblem(dino, prior.Vh, observable_misfit.B.like)
        super().__init__(problem, prior, observable_misfit)
        self.dino = dino

    @property
    def noise_covariance(self) -> NoiseCovariance:
        """Γ as the user's misfit states it now."""
        return noise_covariance(self.misfit.misfit)

    def evalObservable(self, m: dl.GenericVector) -> np.ndarray:
        return self.problem.observable(m)

    def jacobian(self, m: dl.GenericVector) -> Jacobian:
        return self.problem.jacobian(m)

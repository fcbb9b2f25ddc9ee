"""The trained DINO in place of the PDE: an `hp.Model` for hIPPYlib's own loops."""

from __future__ import annotations

import dolfin as dl
import hippylib as hp
import numpy as np

from hippylib_dino.errors import InputError, MisfitError
from hippylib_dino.modeling.fingerprint import (
    check_fingerprint,
    observation_fingerprint,
    operator_fingerprint,
    prior_fingerprint,
    state_fingerprint,
)
from hippylib_dino.modeling.jacobian import Jacobian
from hippylib_dino.modeling.observable_map import ParameterToObservable
from hippylib_dino.modeling.observation import ObservableMisfit, noise_covariance
from hippylib_dino.modeling.time_observation import StackedMisfit, stacked
from hippylib_dino.network.dino import DINO
from hippylib_dino.noise import NoiseCovariance
from hippylib_dino.surrogate.problem import SurrogateProblem


class SurrogateModel(ParameterToObservable, hp.Model):
    """DINO, prior and the user's misfit as an `hp.Model`.

    What the DINO was trained on says what the state is:

    - observables: the state is the observable q, of all times for an `hp.MisfitTD`; the misfit acts on it with B = I;
    - whole states (`hp.ContinuousStateObservation`): the state is the decoded one, and any misfit that acts on states
      of `state_space` is used as it is.

    Data and noise are read from `misfit` at each call, so scripts may change them in place.

    Parameters
    ----------
    dino : DINO
    prior : hIPPYlib prior
    misfit : hp.Misfit
        With observation operator ``B``, the one of the PDE's model; for a DINO of whole states any that acts on states.
    state_space : dolfin.FunctionSpace, optional
        Of the PDE's state.  A DINO of whole states needs it; with others it completes the check of ``B``.

    Raises
    ------
    FingerprintError
        If mesh, spaces, prior or observation operator are not those the DINO was trained for.
    InputError
        If a DINO of whole states comes without `state_space`.
    MisfitError
        If the misfit acts on something else than what the DINO gives, or its data have another length.

    Examples
    --------
    ::

        surrogate = hd.SurrogateModel(hd.DINO.load("confusion.dino"), model.prior, model.misfit)
        solver = hp.ReducedSpaceNewtonCG(surrogate, hp.ReducedSpaceNewtonCG_ParameterList())
        x = solver.solve([None, model.prior.mean.copy(), None])
    """

    def __init__(self, dino: DINO, prior, misfit: hp.Misfit, *, state_space: dl.FunctionSpace | None = None):
        here = prior_fingerprint(prior)
        if dino.whole_state:
            if state_space is None:
                raise InputError(
                    "state_space: expected the state space of the PDE, since this DINO gives whole states; "
                    "pass state_space=pde.Vh[hp.STATE]."
                )
            check_fingerprint(dino.fingerprint, {**here, **state_fingerprint(state_space)}, "dino: it")
            _check_acts_on(misfit, state_space)
            problem = SurrogateProblem(dino, prior.Vh, state_space)
        else:
            if isinstance(misfit, hp.ContinuousStateObservation):
                raise MisfitError(
                    f"misfit: this DINO gives {dino.output_basis.dim} observables B u, {type(misfit).__name__} acts on "
                    "whole states. Generate and train with it as the model's misfit, or use one with an operator B."
                )
            known = state_space is not None
            here |= observation_fingerprint(misfit, state_space) if known else operator_fingerprint(misfit)
            check_fingerprint(dino.fingerprint, here, "dino: it")
            misfit = StackedMisfit(misfit) if isinstance(misfit, hp.MisfitTD) else ObservableMisfit(misfit)
            problem = SurrogateProblem(dino, prior.Vh, misfit.B.like)
        super().__init__(problem, prior, misfit)
        self.dino = dino

    @property
    def noise_covariance(self) -> NoiseCovariance:
        """Γ of the Gaussian noise as the user's misfit states it now.

        Raises
        ------
        MisfitError
            As `JacobianModel.noise_covariance` does.
        """
        if isinstance(self.misfit, StackedMisfit):
            return stacked(noise_covariance, self.misfit.misfit)
        return noise_covariance(self.misfit.misfit if isinstance(self.misfit, ObservableMisfit) else self.misfit)

    def evalObservable(self, m: dl.GenericVector) -> np.ndarray:
        return self.problem.observable(m)

    def jacobian(self, m: dl.GenericVector) -> Jacobian:
        return self.problem.jacobian(m)


def _check_acts_on(misfit: hp.Misfit, state_space: dl.FunctionSpace) -> None:
    """Raise `MisfitError` where the misfit is known to act on another space, or its data are not of its range."""
    if isinstance(misfit, hp.MisfitTD):
        raise MisfitError(
            "misfit: this DINO gives the state of a steady problem, and an hp.MisfitTD acts on trajectories."
        )
    if isinstance(misfit, hp.MultDiscreteStateObservation) and state_space.mesh().mpi_comm().size > 1:
        raise MisfitError(
            "misfit: hIPPYlib's gradient of hp.MultDiscreteStateObservation is wrong on a mesh over several ranks. Use "
            "one rank, or a DINO of the observables B u, whose data have another numbering."
        )
    operator = getattr(misfit, "W", getattr(misfit, "B", None))
    if operator is None:
        return  # the user's own, of which nothing is known
    if operator.size(1) != state_space.dim():
        raise MisfitError(
            f"misfit: expected one that acts on the {state_space.dim()} coefficients of the state, got one for "
            f"{operator.size(1)}; build it with the state space of the PDE."
        )
    if misfit.d.size() != operator.size(0):
        raise MisfitError(f"misfit: expected {operator.size(0)} data, got {misfit.d.size()}.")

"""The trained MR-DINO in place of the PDE of a control problem."""

from __future__ import annotations

import dolfin as dl
import hippylib as hp
import numpy as np

from hippylib_dino.errors import InputError
from hippylib_dino.modeling.control_forms import CONTROL, control_vector
from hippylib_dino.modeling.control_problem import control_order
from hippylib_dino.modeling.fingerprint import check_fingerprint, state_fingerprint
from hippylib_dino.modeling.spaces import check_vector, owned_values, set_owned_values, sum_over_ranks
from hippylib_dino.network.dino import DINO
from hippylib_dino.surrogate.problem import SurrogateProblem, _Point


class SurrogateControlProblem(SurrogateProblem):
    """The "PDE" r(u, m, z; p) = pᵀ(u - F̂(m, z)): what `hd.ControlProblem` is, by network calls.

    Points are x = [u, m, p, z]; methods have SOUPy's names, so that its models and risk measures take either.
    A = I, C = -∂F̂/∂m, C_z = -∂F̂/∂z, and second derivatives in m and z are those of -pᵀF̂.

    Parameters
    ----------
    dino : DINO
        Of a dataset with a control.
    Vh : list of four
        The spaces of the `hd.ControlProblem`.
    observable : dolfin vector, optional
        Layout of the observables, such as ``misfit.d``: for a DINO of observables, which then are the state.

    Raises
    ------
    FingerprintError
        If a DINO of whole states was made for another state space.
    InputError
        If the DINO has no control, other dimensions, or no `observable` where it needs one.
    """

    _inputs = (hp.PARAMETER, CONTROL)

    def __init__(self, dino: DINO, Vh, observable: dl.GenericVector | None = None):
        if len(Vh) != CONTROL + 1:
            raise InputError(f"Vh: expected four spaces, of state, parameter, adjoint and control, got {len(Vh)}.")
        whole = dino.whole_state
        if whole == (observable is not None):
            raise InputError(
                "observable: expected none, since this DINO gives whole states."
                if whole
                else "observable: expected a vector of the observables' layout, since this DINO gives no whole states."
            )
        if whole:
            check_fingerprint(dino.fingerprint, state_fingerprint(Vh[hp.STATE]), "dino: it")
        super().__init__(dino, Vh[hp.PARAMETER], Vh[hp.STATE] if observable is None else observable)
        self.Vh = Vh
        self._control_like = control_vector(Vh[CONTROL])
        order, basis = control_order(Vh[CONTROL]), dino.input_basis.control_part()
        if order.dim != basis.dim:
            raise InputError(f"dino: takes {basis.dim} controls, the control space has {order.dim}.")
        self._control_encoder = order.from_array(basis.encoder)
        self._control_shift = order.from_array(basis.shift)
        self._n_parameters = dino.input_basis.rank - basis.rank

    def generate_control(self) -> dl.GenericVector:
        """A zero control."""
        return control_vector(self.Vh[CONTROL])

    def init_control(self, z: dl.GenericVector) -> None:
        """Shape `z` as a control."""
        z.init(self._control_like.local_range())

    def _at(self, x: list) -> _Point:
        m, z = x[hp.PARAMETER], x[CONTROL]
        check_vector(m, self._parameter, "m")
        check_vector(z, self._control_like, "z")
        dm, dz = owned_values(m) - self._shift, owned_values(z) - self._control_shift
        return self._remembered(
            np.concatenate([dm, dz]), lambda: np.concatenate([self._latent(dm), self._latent_control(dz)])
        )

    def _latent_control(self, direction: np.ndarray) -> np.ndarray:
        return sum_over_ranks(self._control_encoder.T @ direction, self._comm)

    def _lift(self, i: int, direction: dl.GenericVector) -> np.ndarray:
        latent = np.zeros(self.map.input_rank)
        if i == CONTROL:
            latent[self._n_parameters :] = self._latent_control(owned_values(direction))
        else:
            latent[: self._n_parameters] = self._latent(owned_values(direction))
        return latent

    def _drop(self, i: int, latent: np.ndarray, out: dl.GenericVector) -> None:
        if i == CONTROL:
            set_owned_values(out, self._control_encoder @ latent[self._n_parameters :])
        else:
            self._encode_dual(latent[: self._n_parameters], out)

    def evalGradientControl(self, x: list, out: dl.GenericVector) -> None:
        """out = -(∂F̂/∂z)ᵀ p at ``x = [u, m, p, z]``, (dZ,), dual."""
        self._drop(CONTROL, -self._at(x).vjp(self._latent_adjoint(x[hp.ADJOINT])), out)

    def evaluate(self, m: dl.GenericVector) -> _Point:
        raise InputError("m: expected a point [u, m, p, z], got a parameter without its control; call solveFwd.")

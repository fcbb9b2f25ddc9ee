"""The trained DINO as an `hp.PDEProblem` whose state is the observable."""

from __future__ import annotations

from typing import NamedTuple

import dolfin as dl
import hippylib as hp
import numpy as np
from hippylib.utils.warnings import ModelConvergenceError
from mpi4py import MPI

from hippylib_dino.errors import InputError
from hippylib_dino.modeling.jacobian import Jacobian
from hippylib_dino.modeling.spaces import DofOrder, check_vector, gather, owned_values, set_owned_values, sum_over_ranks
from hippylib_dino.network.dino import DINO


class SurrogateJacobian(Jacobian):
    """Ĵ = Φ ∂f (RΨ)ᵀ, kept in factors.

    Parameters
    ----------
    decoder : (dQ, rQ)
        Φ.
    latent : (rQ, rM)
        ∂f.
    encoder : (n_owned, rM)
        This rank's rows of RΨ.
    observable, parameter : dolfin vectors
        Layouts.
    """

    def __init__(self, decoder, latent, encoder, observable: dl.GenericVector, parameter: dl.GenericVector):
        super().__init__(observable, parameter)
        self._left = decoder @ latent
        self._encoder = encoder

    def mult_block(self, directions: np.ndarray) -> np.ndarray:
        return self._left @ sum_over_ranks(self._encoder.T @ directions, self._parameter.mpi_comm())

    def transpmult_block(self, weights: np.ndarray) -> np.ndarray:
        return self._encoder @ (self._left.T @ weights)


class _Point(NamedTuple):
    """A parameter in latent coordinates, with what the loops need there."""

    x: np.ndarray
    value: np.ndarray
    jacobian: np.ndarray


class SurrogateProblem(hp.PDEProblem):
    """The "PDE" r(u, m; p) = pᵀ(u - F̂(m)): forward solves are network calls.

    A = I, C = -Ĵ(m), W_mm = -∇²_m(pᵀF̂), W_uu = W_mu = 0.  Everything is evaluated in float64 from the
    same network, so that cost, gradient and Hessian agree to rounding.

    Parameters
    ----------
    dino : DINO
    parameter_space : dolfin.FunctionSpace
        Of the prior; its mesh may be partitioned.
    observable : dolfin vector
        Layout of the data vector.
    """

    def __init__(self, dino: DINO, parameter_space: dl.FunctionSpace, observable: dl.GenericVector):
        self.dino = dino
        self.map = dino.latent_map
        order = DofOrder(parameter_space)
        if order.dim != dino.input_basis.dim or observable.size() != dino.output_basis.dim:
            raise InputError(
                f"dino: maps {dino.input_basis.dim} parameters to {dino.output_basis.dim} observables, "
                f"the problem has {order.dim} and {observable.size()}."
            )
        self._comm = order.comm
        self._observable = observable.copy()
        self._parameter = dl.Function(parameter_space).vector()
        self._encoder = np.ascontiguousarray(order.from_array(dino.input_basis.encoder))
        self._shift = order.from_array(dino.input_basis.shift)
        self._last: tuple[np.ndarray, _Point] | None = None
        self._linearized: _Point | None = None
        self._adjoint_weights: np.ndarray | None = None  # Φᵀp of a full Newton Hessian, None in Gauss-Newton

    # ---- vectors -------------------------------------------------------------------------

    def generate_state(self) -> dl.GenericVector:
        """A zero observable vector."""
        vector = self._observable.copy()
        vector.zero()
        return vector

    def generate_parameter(self) -> dl.GenericVector:
        """A zero parameter vector."""
        vector = self._parameter.copy()
        vector.zero()
        return vector

    def init_parameter(self, m: dl.GenericVector) -> None:
        """Shape `m` as a parameter."""
        m.init(self._parameter.local_range())

    def _encode_dual(self, latent: np.ndarray, out: dl.GenericVector) -> None:
        """out = RΨ latent, a dual parameter vector."""
        set_owned_values(out, self._encoder @ latent)

    def _latent(self, direction: np.ndarray) -> np.ndarray:
        """(RΨ)ᵀ of owned values, (rM,) on every rank."""
        return sum_over_ranks(self._encoder.T @ direction, self._comm)

    def _latent_adjoint(self, p: dl.GenericVector) -> np.ndarray:
        """Φᵀ p, (rQ,)."""
        return self.dino.output_basis.decoder.T @ gather(owned_values(p), self._observable.mpi_comm())

    def _set_observable(self, values: np.ndarray, out: dl.GenericVector) -> None:
        first, last = self._observable.local_range()
        set_owned_values(out, values[first:last])

    # ---- evaluation ----------------------------------------------------------------------

    def evaluate(self, m: dl.GenericVector) -> _Point:
        """Latent parameter, value and Jacobian at `m`; the last point is remembered.

        Raises
        ------
        VectorError
            If `m` is not a vector of the parameter space.
        hippylib.utils.warnings.ModelConvergenceError
            If the network's answer is not finite, which line searches take as a failed solve.
        """
        check_vector(m, self._parameter, "m")
        values = owned_values(m)
        same = self._last is not None and np.array_equal(self._last[0], values)
        if self._comm.size > 1:
            same = self._comm.allreduce(same, op=MPI.LAND)
        if not same or self._last is None:
            x = self._latent(values - self._shift)
            value, jacobian = self.map.value_and_jacobian(x)
            if not (np.isfinite(value).all() and np.isfinite(jacobian).all()):
                raise ModelConvergenceError(
                    f"the network gave values that are not finite at a parameter with |x| = {np.linalg.norm(x):.3g}."
                )
            self._last = (values, _Point(x, value, jacobian))
        return self._last[1]

    def observable(self, m: dl.GenericVector) -> np.ndarray:
        """F̂(m), (dQ,)."""
        return self.dino.output_basis.decode(self.evaluate(m).value)

    def jacobian(self, m: dl.GenericVector) -> SurrogateJacobian:
        """Ĵ(m)."""
        return SurrogateJacobian(
            self.dino.output_basis.decoder, self.evaluate(m).jacobian, self._encoder, self._observable, self._parameter
        )

    # ---- hp.PDEProblem -------------------------------------------------------------------

    def solveFwd(self, state, x) -> None:
        """state = F̂(m)."""
        self._set_observable(self.observable(x[hp.PARAMETER]), state)

    def solveAdj(self, adj, x, adj_rhs) -> None:
        """p = rhs, since A = I."""
        adj.zero()
        adj.axpy(1.0, adj_rhs)

    def evalGradientParameter(self, x, out) -> None:
        """out = -Ĵᵀp."""
        point = self.evaluate(x[hp.PARAMETER])
        self._encode_dual(-(point.jacobian.T @ self._latent_adjoint(x[hp.ADJOINT])), out)

    def setLinearizationPoint(self, x, gauss_newton_approx) -> None:
        """Keep Ĵ(m), and p for W_mm unless Gauss-Newton."""
        self._linearized = self.evaluate(x[hp.PARAMETER])
        self._adjoint_weights = None if gauss_newton_approx else self._latent_adjoint(x[hp.ADJOINT])

    def solveIncremental(self, out, rhs, is_adj) -> None:
        """out = rhs, since A = I."""
        out.zero()
        out.axpy(1.0, rhs)

    def apply_ij(self, i, j, dir, out) -> None:
        """Second variations of r at the linearization point."""
        point = self._linearized
        if point is None:
            raise InputError("apply_ij: no linearization point; call setLinearizationPoint first.")
        if {i, j} == {hp.STATE, hp.ADJOINT}:
            out.zero()
            out.axpy(1.0, dir)
        elif (i, j) == (hp.ADJOINT, hp.PARAMETER):
            latent = point.jacobian @ self._latent(owned_values(dir))
            self._set_observable(-(self.dino.output_basis.decoder @ latent), out)
        elif (i, j) == (hp.PARAMETER, hp.ADJOINT):
            self._encode_dual(-(point.jacobian.T @ self._latent_adjoint(dir)), out)
        elif (i, j) == (hp.PARAMETER, hp.PARAMETER) and self._adjoint_weights is not None:
            latent = self._latent(owned_values(dir))
            self._encode_dual(-self.map.hessian_action(point.x, self._adjoint_weights, latent), out)
        else:
            out.zero()

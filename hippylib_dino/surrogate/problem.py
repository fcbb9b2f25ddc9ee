"""The trained DINO as an `hp.PDEProblem` whose state is the observable, or the decoded finite element state."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import dolfin as dl
import hippylib as hp
import numpy as np
from hippylib.utils.warnings import ModelConvergenceError
from mpi4py import MPI

from hippylib_dino.errors import InputError
from hippylib_dino.modeling.jacobian import Jacobian
from hippylib_dino.modeling.spaces import DofOrder, check_vector, owned_values, set_owned_values, sum_over_ranks
from hippylib_dino.network.dino import DINO
from hippylib_dino.network.latent_map import LatentMap

STEP = 0.02  # prior standard deviations; of differences of fourth order, whose error is near 1e-8 with it


class SurrogateJacobian(Jacobian):
    """Ĵ = Φ ∂f (RΨ)ᵀ, kept in factors.

    Parameters
    ----------
    decoder : (dQ, rQ)
        Φ; rows in the order of stored observables.
    latent : (rQ, rM)
        ∂f.
    encoder : (n_owned, rM)
        This rank's rows of RΨ.
    observable, parameter : dolfin vectors
        Layouts.
    order : DofOrder
        Of the parameter space.
    owned : (n_owned_observables,) of int
        Rows of the decoder that this rank owns in an observable vector.
    distributed : bool
        Whether the local piece of an observable is what the rank owns, as for whole states, or all; see `DataSpace`.
    """

    def __init__(
        self,
        decoder: np.ndarray,
        latent: np.ndarray,
        encoder: np.ndarray,
        observable: dl.GenericVector,
        parameter: dl.GenericVector,
        order: DofOrder,
        owned: np.ndarray,
        distributed: bool,
    ):
        super().__init__(observable, parameter)
        self._decoder, self._latent, self._encoder = decoder, latent, encoder
        self._order, self._owned, self._distributed = order, owned, distributed

    def _parameter_order(self) -> DofOrder:
        return self._order

    def _push(self, directions: np.ndarray) -> np.ndarray:
        """∂f (RΨ)ᵀ V, (rQ, k)."""
        return self._latent @ sum_over_ranks(self._encoder.T @ directions, self._parameter.mpi_comm())

    def _pull(self, latent: np.ndarray) -> np.ndarray:
        """RΨ ∂fᵀ W, (n_owned, k)."""
        return self._encoder @ (self._latent.T @ latent)

    def _pull_owned(self, weights: np.ndarray) -> np.ndarray:
        """Jᵀ W for the rows of W that this rank owns."""
        latent = self._decoder[self._owned].T @ weights
        return self._pull(sum_over_ranks(latent, self._observable.mpi_comm()))

    def mult_block(self, directions: np.ndarray) -> np.ndarray:
        return self._decoder @ self._push(directions)

    def transpmult_block(self, weights: np.ndarray) -> np.ndarray:
        return self._pull(self._decoder.T @ weights)

    def mult_local(self, directions: np.ndarray) -> np.ndarray:
        if not self._distributed:
            return self.mult_block(directions)
        return self._decoder[self._owned] @ self._push(directions)

    def transpmult_local(self, weights: np.ndarray) -> np.ndarray:
        return self._pull_owned(weights) if self._distributed else self.transpmult_block(weights)

    def mult(self, x: dl.GenericVector, y: dl.GenericVector) -> None:
        check_vector(x, self._parameter, "x of Jacobian.mult")
        set_owned_values(y, self._decoder[self._owned] @ self._push(owned_values(x)))

    def transpmult(self, x: dl.GenericVector, y: dl.GenericVector) -> None:
        check_vector(x, self._observable, "x of Jacobian.transpmult")
        set_owned_values(y, self._pull_owned(owned_values(x)))


class _Point:
    """A parameter in latent coordinates, with what the loops need there."""

    def __init__(self, f: LatentMap, x: np.ndarray):
        self.x, self._map, self._at = x, f, f.linearize(x)
        self.value = self._finite(self._at.value)

    def _finite(self, array: np.ndarray) -> np.ndarray:
        if not np.isfinite(array).all():
            raise ModelConvergenceError(
                f"the network gave values that are not finite at a parameter with |x| = {np.linalg.norm(self.x):.3g}; "
                f"samples of the prior, on which it was trained, have about {np.sqrt(len(self.x)):.3g}."
            )
        return array

    @cached_property
    def jacobian(self) -> np.ndarray:
        """∂f, (rQ, rM)."""
        return self._finite(self._at.jacobian())

    def vjp(self, weights: np.ndarray) -> np.ndarray:
        """∂fᵀ w, (rM,)."""
        return self._finite(self._at.vjp(weights))

    def hessian_action(self, weights: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """∇²(wᵀf) v, (rM,)."""
        return self._map.hessian_action(self.x, weights, direction)


class SurrogateProblem(hp.PDEProblem):
    """The "PDE" r(u, m; p) = pᵀ(u - F̂(m)): forward solves are network calls.

    A = I, C = -Ĵ(m), W_mm = -∇²_m(pᵀF̂), W_uu = W_mu = 0.  Everything is evaluated in float64 from the
    same network, so that cost, gradient and Hessian agree to rounding.

    Parameters
    ----------
    dino : DINO
    parameter_space : dolfin.FunctionSpace
        Of the prior; its mesh may be partitioned.
    state : dolfin vector or dolfin.FunctionSpace
        Layout of the data vector, where F̂ is the observable; or the state space, where F̂ is the whole state.

    Raises
    ------
    InputError
        If the DINO has other dimensions, or a control, for which there is `SurrogateControlProblem`.
    """

    _inputs: tuple[int, ...] = (hp.PARAMETER,)

    def __init__(self, dino: DINO, parameter_space: dl.FunctionSpace, state: dl.GenericVector | dl.FunctionSpace):
        self.dino = dino
        self.map = dino.latent_map
        order = self._order = DofOrder(parameter_space)
        self._whole_state = isinstance(state, dl.FunctionSpace)
        if self._whole_state:
            self._state, self._owned = dl.Function(state).vector(), DofOrder(state).owned
        else:
            self._state, self._owned = state.copy(), np.arange(*state.local_range())
        if (dino.control is not None) != (len(self._inputs) > 1):
            raise InputError(
                "dino: expected one that was trained "
                + ("without a control; use hd.ouu.SurrogateControlProblem." if dino.control else "with a control.")
            )
        basis = dino.input_basis.parameter_part()
        if order.dim != basis.dim or self._state.size() != dino.output_basis.dim:
            raise InputError(
                f"dino: maps {basis.dim} parameters to {dino.output_basis.dim} observables, "
                f"the problem has {order.dim} and {self._state.size()}."
            )
        self._comm = order.comm
        self._parameter = dl.Function(parameter_space).vector()
        self._encoder = np.ascontiguousarray(order.from_array(basis.encoder))
        self._shift = order.from_array(basis.shift)
        self._decoder = np.ascontiguousarray(dino.output_basis.decoder[self._owned])
        self._mean_state = dino.output_basis.shift[self._owned]
        self._last: tuple[np.ndarray, _Point] | None = None
        self._linearized: _Point | None = None
        self._adjoint_weights: np.ndarray | None = None  # Φᵀp of a full Newton Hessian, None in Gauss-Newton

    # ---- vectors -------------------------------------------------------------------------

    def generate_state(self) -> dl.GenericVector:
        """A zero state: an observable vector, or one of the state space."""
        vector = self._state.copy()
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
        """Φᵀ p, (rQ,) on every rank."""
        return sum_over_ranks(self._decoder.T @ owned_values(p), self._comm)

    def _decode(self, latent: np.ndarray, out: dl.GenericVector) -> None:
        """out = Φ latent, a change of the state."""
        set_owned_values(out, self._decoder @ latent)

    # ---- evaluation ----------------------------------------------------------------------

    def evaluate(self, m: dl.GenericVector) -> _Point:
        """Latent parameter, value and Jacobian at `m`; the last point is remembered.

        Raises
        ------
        VectorError
            If `m` is not a vector of the parameter space.
        hippylib.utils.warnings.ModelConvergenceError
            If the network's answer is not finite, which hIPPYlib's Newton line search takes as a failed solve.
        """
        check_vector(m, self._parameter, "m")
        values = owned_values(m)
        return self._remembered(values, lambda: self._latent(values - self._shift))

    def _remembered(self, values: np.ndarray, latent: Callable[[], np.ndarray]) -> _Point:
        """The last point, if this rank's `values` and those of the others are its own; else a new one."""
        same = self._last is not None and np.array_equal(self._last[0], values)
        if self._comm.size > 1:
            same = self._comm.allreduce(same, op=MPI.LAND)
        if not same or self._last is None:
            self._last = (values, _Point(self.map, latent()))
        return self._last[1]

    def _at(self, x: list) -> _Point:
        """The network at a point of the problem."""
        return self.evaluate(x[hp.PARAMETER])

    def _lift(self, i: int, direction: dl.GenericVector) -> np.ndarray:
        """Latent direction of one of input variable `i`."""
        return self._latent(owned_values(direction))

    def _drop(self, i: int, latent: np.ndarray, out: dl.GenericVector) -> None:
        """out = the part of a latent gradient that is input variable `i`'s, dual."""
        self._encode_dual(latent, out)

    def observable(self, m: dl.GenericVector) -> np.ndarray:
        """F̂(m), (dQ,), on every rank; a whole state in canonical order."""
        return self.dino.output_basis.decode(self.evaluate(m).value)

    def jacobian(self, m: dl.GenericVector) -> SurrogateJacobian:
        """Ĵ(m)."""
        return SurrogateJacobian(
            self.dino.output_basis.decoder,
            self.evaluate(m).jacobian,
            self._encoder,
            self._state,
            self._parameter,
            self._order,
            self._owned,
            self._whole_state,
        )

    # ---- hp.PDEProblem -------------------------------------------------------------------

    def solveFwd(self, state, x) -> None:
        """state = F̂(m)."""
        set_owned_values(state, self._mean_state + self._decoder @ self._at(x).value)

    def solveAdj(self, adj, x, adj_rhs) -> None:
        """p = rhs, since A = I."""
        adj.zero()
        adj.axpy(1.0, adj_rhs)

    def evalGradientParameter(self, x, out) -> None:
        """out = -Ĵᵀp."""
        self._drop(hp.PARAMETER, -self._at(x).vjp(self._latent_adjoint(x[hp.ADJOINT])), out)

    def setLinearizationPoint(self, x, gauss_newton_approx) -> None:
        """Keep Ĵ(m), and p for W_mm unless Gauss-Newton."""
        self._linearized = self._at(x)
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
        elif i == hp.ADJOINT and j in self._inputs:
            self._decode(-(point.jacobian @ self._lift(j, dir)), out)
        elif i in self._inputs and j == hp.ADJOINT:
            self._drop(i, -(point.jacobian.T @ self._latent_adjoint(dir)), out)
        elif i in self._inputs and j in self._inputs and self._adjoint_weights is not None:
            self._drop(i, -point.hessian_action(self._adjoint_weights, self._lift(j, dir)), out)
        else:
            out.zero()

    def apply_ijk(self, i, j, k, x, jdir, kdir, out) -> None:
        """Third variations of r at `x`, tested in variable `i`, in directions of variables `j` and `k`.

        Only r_pmm, in any order, and r_mmm are not zero, m any input, since r is linear in u and p.  r_pmm is exact.
        r_mmm takes the derivative of exact Hessian actions by differences of fourth order.
        """
        given = ((j, jdir), (k, kdir))
        along = [self._lift(variable, direction) for variable, direction in given if variable in self._inputs]
        adjoints = [direction for variable, direction in given if variable == hp.ADJOINT]
        point = self._at(x)
        if i == hp.ADJOINT and len(along) == 2:
            self._decode(-self._curvature(point.x, *along), out)
        elif i in self._inputs and len(along) == 1 and adjoints:
            self._drop(i, -point.hessian_action(self._latent_adjoint(adjoints[0]), along[0]), out)
        elif i in self._inputs and len(along) == 2:
            self._drop(i, -self._third(point.x, self._latent_adjoint(x[hp.ADJOINT]), *along), out)
        else:
            out.zero()

    def _curvature(self, x: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """∂²f(x)[v, w], (rQ,)."""
        n = self.map.output_rank
        points, directions = (np.broadcast_to(a, (n, len(a))) for a in (x, v))
        return self.map.hessian_action(points, np.eye(n), directions) @ w

    def _third(self, x: np.ndarray, weights: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """∂³(weightsᵀf)(x)[v, w, ·], (rM,)."""
        size = float(np.linalg.norm(w))
        if size == 0.0:
            return np.zeros_like(x)
        step = STEP / size
        near, far = (
            self.map.hessian_action(x + h * w, weights, v) - self.map.hessian_action(x - h * w, weights, v)
            for h in (step, 2 * step)
        )
        return (8 * near - far) / (12 * step)

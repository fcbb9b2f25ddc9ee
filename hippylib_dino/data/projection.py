"""From a solved sample to what is stored of it: latent coordinates, reduced Jacobian, energies."""

from __future__ import annotations

import numpy as np

from hippylib_dino.data.solving import Solved
from hippylib_dino.data.streams import draw_parameter
from hippylib_dino.modeling.jacobian import Jacobian
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.spaces import DofOrder, map_block, owned_values, sum_over_ranks
from hippylib_dino.reduction.basis import Basis

# random directions that estimate what of a Jacobian the input basis does not see
N_PROBES = 8


def linearized_covariance(prior, rows: np.ndarray) -> np.ndarray:
    """J R⁻¹ Jᵀ (dQ, dQ), the covariance of the linearised observable, from Jᵀ (n_owned, dQ)."""
    riesz = map_block(prior.Rsolver.solve, prior.mean, prior.mean, rows)
    return sum_over_ranks(rows.T @ riesz, prior.mean.mpi_comm())


def owned_rows(solved: Solved) -> np.ndarray:
    """Jᵀ of a sample, (n_owned, dQ)."""
    return solved.jacobian.owned_rows() if isinstance(solved.jacobian, Jacobian) else solved.jacobian


class Projector:
    """Projection of samples on a pair of bases.

    Full Jacobians are taken by rows (dQ adjoint solves) where that is cheaper, or where they are to be stored, and else
    by columns: rM forward sensitivities of the input basis, and a few of random directions outside it, from
    which ‖Γ^-½ J R^-½‖² is estimated without bias.

    Parameters
    ----------
    model : JacobianModel
    input_basis, output_basis : Basis
    seed : int
        Of the random directions, together with the sample's index.
    store_full : bool
        Whether full parameters and Jacobians are part of the record.
    """

    def __init__(
        self, model: JacobianModel, input_basis: Basis, output_basis: Basis, *, seed: int, store_full: bool = False
    ):
        self.model, self.seed, self.store_full = model, seed, store_full
        self.order, self.data = DofOrder(model.prior.Vh), model.data_space
        self._encoder = self.order.from_array(input_basis.encoder)
        self._decoder = self.order.from_array(input_basis.decoder)
        self._shift = self.order.from_array(input_basis.shift)
        self._out_encoder = self.data.local(output_basis.encoder)
        self._out_decoder = self.data.local(output_basis.decoder)
        self._out_shift = self.data.local(output_basis.shift)
        fewer_rows = self.data.dim <= input_basis.rank + N_PROBES and not model.whole_state
        self.by_rows = fewer_rows or store_full

    def encode(self, m: np.ndarray) -> np.ndarray:
        """Latent parameter (rM,) of owned values."""
        return sum_over_ranks(self._encoder.T @ (m - self._shift), self.order.comm)

    def record(self, index: int, solved: Solved, covariance: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Arrays to store of sample `index`, on every rank of the mesh.

        Parameters
        ----------
        index : int
        solved : Solved
        covariance : (dQ, dQ), optional
            J R⁻¹ Jᵀ, where it is known.
        """
        record: dict[str, np.ndarray]
        q, y = solved.q, self.data.dot(self._out_encoder, solved.q - self._out_shift)
        record = {"x": self.encode(solved.m), "y": y, "observable_energy": self.data.inner(q, q)}
        if self.model.whole_state:
            rest = q - self._out_shift - self._out_decoder @ y
            record["observable_residual"] = self.data.inner(rest, rest)
        else:
            record["observable"] = q
        jacobian = solved.jacobian
        if isinstance(jacobian, Jacobian) and not self.by_rows:
            reduced, energy = self._by_columns(index, jacobian)
        else:
            rows = owned_rows(solved)
            reduced = self._out_encoder.T @ sum_over_ranks(rows.T @ self._decoder, self.order.comm)
            covariance = linearized_covariance(self.model.prior, rows) if covariance is None else covariance
            energy = np.trace(self.data.precision(covariance))
            if self.store_full:
                record["m"], record["jacobian"] = self.order.to_array(solved.m), self.order.to_array(rows).T
        record["reduced_jacobian"], record["jacobian_energy"] = reduced, np.asarray(energy)
        record["work"] = np.array([solved.seconds, solved.iterations])
        return record

    def _by_columns(self, index: int, jacobian: Jacobian) -> tuple[np.ndarray, float]:
        """J_r and an unbiased estimate of ‖Γ^-½ J R^-½‖²: J on the basis, and on prior draws outside it."""
        rank = self._decoder.shape[1]
        columns = jacobian.mult_local(np.column_stack([self._decoder, self._probes(index)]))
        reduced = self.data.dot(self._out_encoder, columns[:, :rank])
        energies = self.data.sum(np.einsum("ij,ij->j", columns, self.data.precision(columns)))
        return reduced, float(energies[:rank].sum() + energies[rank:].mean())

    def _probes(self, index: int) -> np.ndarray:
        """(n_owned, N_PROBES): prior draws less their part in the basis, for which E[z zᵀ] = R⁻¹ - ΨΨᵀ."""
        prior = self.model.prior
        mean = owned_values(prior.mean)
        draws = [owned_values(draw_parameter(prior, (self.seed, 1 + j), index)) - mean for j in range(N_PROBES)]
        probes = np.column_stack(draws)
        return probes - self._decoder @ sum_over_ranks(self._encoder.T @ probes, self.order.comm)

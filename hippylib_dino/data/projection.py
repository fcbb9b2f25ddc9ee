"""From a solved sample to what is stored of it: latent coordinates, reduced Jacobian, energies."""

from __future__ import annotations

import numpy as np

from hippylib_dino.data.solving import Solved, SolvedControl
from hippylib_dino.data.streams import draw_parameter
from hippylib_dino.modeling.jacobian import Jacobian
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.spaces import DofOrder, map_block, owned_values, sum_over_ranks
from hippylib_dino.random_streams import PROBES
from hippylib_dino.reduction.basis import Basis

# prior draws that estimate what of a Jacobian the input basis does not see: cheap where its rows are at hand
N_PROBES_BY_ROWS, N_PROBES_BY_COLUMNS = 64, 16


def linearized_covariance(prior, rows: np.ndarray) -> np.ndarray:
    """J R⁻¹ Jᵀ (dQ, dQ), the covariance of the linearised observable, from Jᵀ (n_owned, dQ)."""
    riesz = map_block(prior.Rsolver.solve, prior.mean, prior.mean, rows)
    return sum_over_ranks(rows.T @ riesz, prior.mean.mpi_comm())


def owned_rows(solved: Solved) -> np.ndarray:
    """Jᵀ of a sample, (n_owned, dQ)."""
    return solved.jacobian.owned_rows() if isinstance(solved.jacobian, Jacobian) else solved.jacobian


def whole_rows(jacobian: Jacobian | np.ndarray, model: JacobianModel) -> np.ndarray:
    """J_zᵀ, (dZ, dQ), on every rank."""
    if isinstance(jacobian, Jacobian):
        return model.problem.control_order.to_array(jacobian.owned_rows())
    return jacobian


class Projector:
    """Projection of samples on a pair of bases.

    J is applied to the input basis and to some prior draws less their part in it, for which E[z zᵀ] = R⁻¹ - ΨΨᵀ:
    that gives J_r, and ‖Γ^-½ J R^-½‖² without prior solves, its part in the basis exactly and the small rest as an
    unbiased estimate, with the same draws for all samples; where full Jacobians are stored it is computed.
    Jacobians are taken by rows (dQ adjoint solves) where that is cheaper, or where they are to be stored, and
    else by their columns alone: rM and a few forward sensitivities.

    Parameters
    ----------
    model : JacobianModel
    input_basis, output_basis : Basis
        The first of the parameter, or of pairs of parameter and control.
    seed : int
        Of the prior draws.
    store_full : bool
        Whether full parameters and Jacobians are part of the record.
    store_parameters : bool
        Whether full parameters are.

    Attributes
    ----------
    importance : (rM,)
        Of each latent parameter to the observable, the first one's 1.
    """

    def __init__(
        self,
        model: JacobianModel,
        input_basis: Basis,
        output_basis: Basis,
        *,
        seed: int,
        store_full: bool = False,
        store_parameters: bool = False,
    ):
        self.model, self.store_full = model, store_full
        self._control: tuple[Basis, np.ndarray] | None = None
        if model.control_distribution is not None:
            self._control = input_basis.control_part(), model.control_distribution.factor
        input_basis = input_basis.parameter_part()
        self.store_parameters = store_full or store_parameters
        self.order, self.data = DofOrder(model.prior.Vh), model.data_space
        self._encoder = self.order.from_array(input_basis.encoder)
        self._decoder = self.order.from_array(input_basis.decoder)
        self._shift = self.order.from_array(input_basis.shift)
        self._rank = input_basis.rank
        values = input_basis.eigenvalues[: self._rank]
        self.importance = (values / values[0]) ** 0.25
        self._out_encoder = self.data.local(output_basis.encoder)
        self._out_decoder = self.data.local(output_basis.decoder)
        self._out_shift = self.data.local(output_basis.shift)
        fewer_rows = self.data.dim <= self._rank + N_PROBES_BY_COLUMNS and not model.whole_state
        self.by_rows = fewer_rows or store_full
        self._directions = self._decoder
        if not store_full:
            probes = self._probes(seed, N_PROBES_BY_ROWS if self.by_rows else N_PROBES_BY_COLUMNS)
            self._directions = np.column_stack([self._decoder, probes])

    def encode(self, m: np.ndarray) -> np.ndarray:
        """Latent parameter (rM,) of owned values."""
        return sum_over_ranks(self._encoder.T @ (m - self._shift), self.order.comm)

    def record(self, solved: Solved) -> dict[str, np.ndarray]:
        """Arrays to store of a sample, on every rank of the mesh."""
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
            columns = jacobian.mult_local(self._directions)
        else:
            rows = owned_rows(solved)
            columns = sum_over_ranks(rows.T @ self._directions, self.order.comm)
        record["reduced_jacobian"] = self.data.dot(self._out_encoder, columns[:, : self._rank])
        if self.store_parameters:
            record["m"] = self.order.to_array(solved.m)
        if self.store_full:
            record["jacobian"] = self.order.to_array(rows).T
            covariance = linearized_covariance(self.model.prior, rows)
            record["jacobian_energy"] = np.trace(self.data.precision(covariance))
        else:
            energies = self.data.sum(np.einsum("ij,ij->j", columns, self.data.precision(columns)))
            record["jacobian_energy"] = energies[: self._rank].sum() + energies[self._rank :].mean()
        if solved.control is not None and self._control is not None:
            self._add_control(record, solved.control, *self._control)
        return record

    def _add_control(
        self, record: dict[str, np.ndarray], control: SolvedControl, basis: Basis, factor: np.ndarray
    ) -> None:
        """The control and its part of latent input and Jacobian."""
        columns = self._control_columns(control.jacobian, factor)
        energy = self.data.sum(np.einsum("ij,ij->j", columns, self.data.precision(columns))).sum()
        reduced = self.data.dot(self._out_encoder, columns) @ (factor.T @ basis.encoder)
        record["control"], record["control_jacobian_energy"] = control.z, energy
        record["x"] = np.concatenate([record["x"], basis.encode(control.z)])
        record["reduced_jacobian"] = np.column_stack([record["reduced_jacobian"], reduced])
        record["jacobian_energy"] = record["jacobian_energy"] + energy

    def _control_columns(self, jacobian: Jacobian | np.ndarray, directions: np.ndarray) -> np.ndarray:
        """J_z V, this rank's piece of each column, for whole directions (dZ, k)."""
        if isinstance(jacobian, Jacobian) and self.model.whole_state:
            return jacobian.mult_local(self.model.problem.control_order.from_array(directions))
        return whole_rows(jacobian, self.model).T @ directions

    def _probes(self, seed: int, n: int) -> np.ndarray:
        """(n_owned, n): prior draws less their part in the basis."""
        prior = self.model.prior
        mean = owned_values(prior.mean)
        draws = [owned_values(draw_parameter(prior, (seed, PROBES), index)) - mean for index in range(n)]
        probes = np.column_stack(draws)
        return probes - self._decoder @ sum_over_ranks(self._encoder.T @ probes, self.order.comm)

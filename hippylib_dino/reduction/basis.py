"""A reduced basis: decoder, encoder, spectrum, shift.  NumPy only, so that training needs no dolfin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg as sla

from hippylib_dino.errors import InputError
from hippylib_dino.ordering import CANONICAL, ordered


@dataclass(frozen=True)
class Basis:
    """An affine subspace with oblique projector decoder @ encoder.T, for inputs or outputs.

    Encoder and decoder differ whenever the inner product is not Euclidean: the encoder is W times the
    decoder, and the decoder is W-orthonormal.  For the input basis W = R (prior precision),
    decoder Ψ and encoder RΨ, so that latent parameters are N(0, I) under the prior.  For the
    output basis W = Γ⁻¹ (noise precision).

    Parameters
    ----------
    decoder, encoder : (dim, rank)
        Columns; encoderᵀ decoder = I.  Of parameters the rows are in canonical order, and refuse to meet an array in
        dolfin's (`hippylib_dino.ordering`).
    shift : (dim,)
        Prior mean, or mean observable; what decodes from zero.
    eigenvalues : (n,), n ≥ rank
        Spectrum that ranked the vectors, descending.  Of an identity, which ranks nothing, the sample variances of
        its outputs in the order of the outputs.
    kind : str
        "derivative", "kle", "pod" or "identity"; "whitened" of controls that are not reduced; "learned" is the first
        layer of a network on full dimensions.
    inner_product : str
        "prior precision" or "noise precision"; "control precision" of controls; "Euclidean" of a learned one.
    total_energy : float, optional
        Sum of the whole spectrum, also of what was not computed; None where it is not known.
    parameter_block : (dM, rM), optional
        Of a basis of parameter and control, (m, z), the rows and columns that are the parameter's; what is beyond
        them is the control's, see `joint_basis`.  None where there is no control.
    """

    decoder: np.ndarray
    encoder: np.ndarray
    shift: np.ndarray
    eigenvalues: np.ndarray
    kind: str
    inner_product: str
    total_energy: float | None = None
    parameter_block: tuple[int, int] | None = None

    def __post_init__(self):
        if self.decoder.shape != self.encoder.shape or self.decoder.shape[0] != self.shift.shape[0]:
            raise InputError(
                f"basis: expected decoder and encoder (dim, rank) and shift (dim,), got {self.decoder.shape}, "
                f"{self.encoder.shape} and {self.shift.shape}."
            )
        if self.kind == "learned" or "prior precision" in self.inner_product:
            for name in ("decoder", "encoder", "shift"):
                object.__setattr__(self, name, ordered(getattr(self, name), CANONICAL))

    @property
    def dim(self) -> int:
        """Dimension of the full space."""
        return self.decoder.shape[0]

    @property
    def rank(self) -> int:
        """Number of basis vectors."""
        return self.decoder.shape[1]

    @property
    def control_rank(self) -> int:
        """rZ, how many of the last vectors are the control's; 0 without a control."""
        return 0 if self.parameter_block is None else self.rank - self.parameter_block[1]

    def parameter_part(self) -> Basis:
        """The basis of the parameter alone; without a control this one."""
        return self if self.parameter_block is None else self._part(0, self.parameter_block)

    def control_part(self) -> Basis:
        """The basis of the control alone.

        Raises
        ------
        InputError
            If there is no control.
        """
        if self.parameter_block is None:
            raise InputError("basis: is of a parameter without a control.")
        return self._part(1, self.parameter_block)

    def _part(self, which: int, block: tuple[int, int]) -> Basis:
        rows, columns = ((slice(n), slice(n, None))[which] for n in block)
        return Basis(
            decoder=self.decoder[rows, columns],
            encoder=self.encoder[rows, columns],
            shift=self.shift[rows],
            eigenvalues=self.eigenvalues[: self.rank][columns],
            kind=self.kind.split(", ")[which],
            inner_product=self.inner_product.split(", ")[which],
        )

    def encode(self, full: np.ndarray) -> np.ndarray:
        """(..., dim) to latent (..., rank): encoderᵀ (full - shift)."""
        return (full - self.shift) @ self.encoder

    def decode(self, latent: np.ndarray) -> np.ndarray:
        """Latent (..., rank) to (..., dim): shift + decoder latent."""
        return self.shift + latent @ self.decoder.T

    def energy(self) -> np.ndarray:
        """Share of the total energy that the first 1, 2, ... vectors hold, (n,); of the computed part if no total.

        The order is that of the vectors: for an identity it ends at 1 as for others, but ranks nothing.
        """
        held = np.cumsum(self.eigenvalues)
        return held / (held[-1] if self.total_energy is None else self.total_energy)


def joint_basis(parameter: Basis, control: Basis) -> Basis:
    """The basis of pairs (m, z) as one vector (dM + dZ,): block-diagonal, latent coordinates (x, ζ) (rM + rZ,).

    Parameters
    ----------
    parameter, control : Basis

    Examples
    --------
    >>> one = Basis(np.eye(2), np.eye(2), np.zeros(2), np.ones(2), "kle", "prior precision")
    >>> joint_basis(one, one).rank
    4
    """
    return Basis(
        decoder=sla.block_diag(parameter.decoder, control.decoder),
        encoder=sla.block_diag(parameter.encoder, control.encoder),
        shift=np.concatenate([parameter.shift, control.shift]),
        eigenvalues=np.concatenate([basis.eigenvalues[: basis.rank] for basis in (parameter, control)]),
        kind=f"{parameter.kind}, {control.kind}",
        inner_product=f"{parameter.inner_product}, {control.inner_product}",
        parameter_block=(parameter.dim, parameter.rank),
    )

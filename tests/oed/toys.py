"""Small DINOs in closed form, without PDE."""

import numpy as np

import hippylib_dino as hd
from hippylib_dino.network import Polynomial
from hippylib_dino.reduction.basis import Basis


def correlated_noise(dim, rng):
    """A covariance with different variances and long correlations."""
    deviation = rng.uniform(0.5, 2.0, dim)
    distance = np.abs(np.subtract.outer(np.arange(dim), np.arange(dim)))
    return np.outer(deviation, deviation) * 0.7**distance


def polynomial_dino(constant, linear, quadratic=None, *, decoder=None, output_decoder=None):
    """q = shift + Φ(c + J x + ½ H[x, x]) in given bases; the identity by default."""
    linear = np.asarray(linear, dtype=float)
    n_out, n_in = linear.shape
    psi = np.eye(n_in) if decoder is None else decoder
    phi = np.eye(n_out) if output_decoder is None else output_decoder
    encoder = np.linalg.pinv(psi).T
    weights = [np.asarray(constant, dtype=float), linear]
    if quadratic is not None:
        weights.append(np.asarray(quadratic, dtype=float))
    return hd.DINO(
        architecture=Polynomial(n_in, n_out, degree=len(weights) - 1),
        weights=weights,
        input_basis=Basis(psi, encoder, np.zeros(len(psi)), np.ones(n_in), "kle", "prior precision"),
        output_basis=Basis(
            phi, np.linalg.pinv(phi).T, np.linspace(0, 1, len(phi)), np.ones(n_out), "pod", "noise precision"
        ),
        fingerprint={},
    )


class Linear:
    """A linear Gaussian problem in a reduced output basis, with dense algebra on all it has."""

    def __init__(self, rng, n_observables=9, rank=6, n_parameters=7):
        self.A_out = rng.standard_normal((n_observables, rank))
        self.J = rng.standard_normal((rank, n_parameters)) * np.linspace(2.0, 0.2, n_parameters)
        self.decoder = rng.standard_normal((11, n_parameters))
        self.dino = polynomial_dino(rng.standard_normal(rank), self.J, decoder=self.decoder, output_decoder=self.A_out)
        self.A = self.A_out @ self.J

    def covariance(self, noise, rows):
        """(I + A_Sᵀ Γ_SS⁻¹ A_S)⁻¹, and the Hessian's eigenvalues less 1."""
        rows = list(rows)
        A = self.A[rows]
        hessian = A.T @ np.linalg.inv(noise[np.ix_(rows, rows)]) @ A
        return np.linalg.inv(np.eye(len(hessian)) + hessian), np.linalg.eigvalsh(hessian)

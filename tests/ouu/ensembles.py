"""Ensembles of closed form, and coordinates of a control, for the tests."""

import numpy as np

from hippylib_dino.control import UniformControl
from hippylib_dino.network import Polynomial, ReducedDense
from hippylib_dino.ouu import Ensemble, LatentQuadratic, SurrogateEnsemble
from hippylib_dino.reduction.control import control_basis


def box(low, high, n):
    """Independent uniform controls, and their basis of zero mean and unit variance."""
    law = UniformControl(np.full(n, low), np.full(n, high))
    return law, control_basis(law, np.eye(n))


class Analytic(Ensemble):
    """Q_i(z) = exp(a_iᵀz) + ½ (b_iᵀz - 1)², smooth, with all derivatives nonzero; no network."""

    def __init__(self, n=40, n_control=3, seed=0):
        rng = np.random.default_rng(seed)
        self.n, self.n_control = n, n_control
        self.a, self.b = 0.4 * rng.standard_normal((n, n_control)), rng.standard_normal((n, n_control))

    def quantity(self, z):
        return self.quantity_and_jacobian(z)[0]

    def quantity_and_jacobian(self, z):
        e, s = np.exp(self.a @ z), self.b @ z - 1
        return e + 0.5 * s**2, e[:, None] * self.a + s[:, None] * self.b

    def hessian_actions(self, z, direction):
        return (np.exp(self.a @ z) * (self.a @ direction))[:, None] * self.a + (self.b @ direction)[:, None] * self.b


def quadratic(rank, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((rank, rank))
    return LatentQuadratic(0.3, rng.standard_normal(rank), root @ root.T / rank)


def network(n=40, rank=4, n_control=3, n_outputs=5, seed=0):
    """A surrogate with random weights."""
    rng = np.random.default_rng(seed)
    architecture = ReducedDense(rank + n_control, n_outputs, hidden=(16, 16))
    weights = [rng.standard_normal(s) / np.sqrt(s[0]) for s in architecture.weight_shapes()]
    law, basis = box(-2.0, 3.0, n_control)
    f = architecture.latent_map(weights)
    return SurrogateEnsemble(f, basis, quadratic(n_outputs), rng.standard_normal((n, rank)), law)


def affine(A, B, shift, basis, quantity, x):
    """A surrogate that is y = shift + A x + B z exactly, whatever the basis of the control."""
    f = Polynomial(A.shape[1] + B.shape[1], len(A)).latent_map(
        [shift + B @ basis.shift, np.hstack([A, B @ basis.decoder])]
    )
    return SurrogateEnsemble(f, basis, quantity, x)

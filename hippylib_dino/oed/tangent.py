"""The observables linearised at one point for each draw: closed forms for any design, rank-one updates.

With J the Jacobian in noise standard deviations, Γ the noise correlation, K = J Jᵀ and T = K + Γ, a design S informs by

    Σ ln(1+λ) = ln det T_SS - ln det Γ_SS,      tr(F Fᵀ (I - C_post)) = tr(T_SS⁻¹ P_SS),    P = J F Fᵀ Jᵀ,

which need matrices as small as the design.  Further sensors c add Schur complements: with V = T_SS⁻¹ T_Sc the
determinant grows by T_cc - T_cS V, and the trace by tr((T_cc - T_cS V)⁻¹ (P_cc - VᵀP_Sc - P_cS V + VᵀP_SS V)).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hippylib_dino.oed.experiment import Experiment


class Tangent:
    """q̄ + Φ(f(z_i) + ∂f(z_i)(z - z_i)) for each draw i.

    Parameters
    ----------
    experiment : Experiment
    z : (n, rM) or (1, rM)
        A point for each draw, or one for all.
    data : (n, dQ)
        Of all candidates, less q̄, in noise standard deviations.

    Attributes
    ----------
    jacobian : (n, dQ, rM)
        Rows in noise standard deviations.
    total : (n, dQ, dQ)
        T, the covariance of the data.
    """

    def __init__(self, experiment: Experiment, z: np.ndarray, data: np.ndarray):
        self._experiment = experiment
        value, jacobian = experiment.f.value_and_jacobian(z)
        self.jacobian = experiment.decoder @ jacobian
        self._residual = data - value @ experiment.decoder.T
        # what the sensors would read of J z and noise alone
        self._linear_data = self._residual + (self.jacobian @ z[..., None])[..., 0]
        self.total = self.jacobian @ self.jacobian.swapaxes(1, 2) + self._noise()

    def map(self, design: Sequence[int]) -> np.ndarray:
        """MAP points of the linearised problem, (n, rM): a Gauss-Newton step from the point."""
        rows = self._experiment.rows(design)
        weights = np.linalg.solve(self._block(self.total, rows, rows), self._linear_data[:, rows, None])
        return (weights.swapaxes(1, 2) @ self.jacobian[:, rows])[:, 0]

    def gradient(self, design: Sequence[int]) -> np.ndarray:
        """Gradient of the misfit at the points, (n, rM)."""
        rows = self._experiment.rows(design)
        weights = np.linalg.solve(self._experiment.noise_block(rows), self._residual[:, rows].T).T
        return -(weights[:, None] @ self.jacobian[:, rows])[:, 0]

    def excess(self, design: Sequence[int], x: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """½‖x_MAP‖² - ½ Σ λ/(1+λ) of the linearised problem with data J x + noise, (n,); its mean over N(0, I) is 0.

        `x` (n, rM) are parameters, `noise` (n, dQ) that of all candidates in standard deviations.
        """
        rows = self._experiment.rows(design)
        J, total = self.jacobian[:, rows], self._block(self.total, rows, rows)
        data = (J @ x[..., None])[..., 0] + noise[:, rows]
        found = (np.linalg.solve(total, data[..., None]).swapaxes(1, 2) @ J)[:, 0]
        gram = total - self._experiment.noise_block(rows)
        informed = np.trace(np.linalg.solve(total, gram), axis1=1, axis2=2)
        return 0.5 * ((found**2).sum(axis=1) - informed)

    @staticmethod
    def _block(a: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return a[:, rows[:, None], columns]

    def log_determinant(self, design: Sequence[int]) -> np.ndarray:
        """Σ ln(1+λ) for each draw, (n,)."""
        rows = self._experiment.rows(design)
        noise = np.linalg.slogdet(self._experiment.noise_block(rows))[1]
        return np.linalg.slogdet(self._block(self.total, rows, rows))[1] - noise

    def log_determinants(self, design: Sequence[int], candidates: Sequence[int]) -> np.ndarray:
        """Σ ln(1+λ) of the design with each candidate added, (n_candidates, n)."""
        noise = self._noise()[None]
        base = self.log_determinant(design)
        return np.array(
            [
                base + np.linalg.slogdet(total)[1] - np.linalg.slogdet(alone)[1]
                for (total, _), (alone, _) in zip(
                    self._schur(self.total, design, candidates), self._schur(noise, design, candidates), strict=True
                )
            ]
        )

    def trace(self, design: Sequence[int], weighted: np.ndarray) -> np.ndarray:
        """tr(F Fᵀ (I - C_post)) for each draw, (n,); `weighted` is P = J F Fᵀ Jᵀ, (n, dQ, dQ)."""
        rows = self._experiment.rows(design)
        inside = np.linalg.solve(self._block(self.total, rows, rows), self._block(weighted, rows, rows))
        return np.trace(inside, axis1=1, axis2=2)

    def traces(self, design: Sequence[int], candidates: Sequence[int], weighted: np.ndarray) -> np.ndarray:
        """The same of the design with each candidate added, (n_candidates, n)."""
        old, base = self._experiment.rows(design), self.trace(design, weighted)
        P_old = self._block(weighted, old, old)
        out = []
        for c, (total, V) in zip(candidates, self._schur(self.total, design, candidates), strict=True):
            new = self._experiment.rows([c])
            crossed = V.swapaxes(1, 2) @ self._block(weighted, old, new)
            bent = V.swapaxes(1, 2) @ P_old @ V
            update = self._block(weighted, new, new) - crossed - crossed.swapaxes(1, 2) + bent
            out.append(base + np.trace(np.linalg.solve(total, update), axis1=1, axis2=2))
        return np.array(out)

    def _schur(
        self, total: np.ndarray, design: Sequence[int], candidates: Sequence[int]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """T_cc - T_cS V and V = T_SS⁻¹ T_Sc for each candidate, from one factorization."""
        old = self._experiment.rows(design)
        groups = [self._experiment.rows([c]) for c in candidates]
        every = np.concatenate(groups)
        V = np.linalg.solve(self._block(total, old, old), self._block(total, old, every))
        out, first = [], 0
        for new in groups:
            own = V[:, :, first : first + len(new)]
            out.append((self._block(total, new, new) - self._block(total, new, old) @ own, own))
            first += len(new)
        return out

    def relaxed_log_determinant(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean over draws of Σ ln(1+λ) with weights (dQ,) in [0, 1] on the observables, and its gradient (dQ,).

        A weight w raises the noise variance by (1/w - 1) Γ_ii (of a group, its block by that): at 0 and 1 this is the
        design, with the inverse of the sub-block of Γ, and for independent noise the misfit weighed by w.  With D the
        block diagonal of Γ it is ln det(W T + (I - W) D) - ln det(W Γ + (I - W) D), a polynomial's logarithm.
        """
        value, gradient = 0.0, np.zeros(len(weights))
        for sign, total in ((1.0, self.total), (-1.0, self._noise()[None])):
            off = total - self._diagonal()
            mixed = weights[:, None] * off + self._diagonal()
            value += sign * float(np.linalg.slogdet(mixed)[1].mean())
            gradient += sign * np.einsum("nij,nji->i", off, np.linalg.inv(mixed)) / len(total)
        return value, gradient

    def relaxed_trace(self, weights: np.ndarray, weighted: np.ndarray) -> tuple[float, np.ndarray]:
        """The same for tr(F Fᵀ (I - C_post)) = tr(W (T W + (I - W) D)⁻¹ P); see `trace`."""
        off = self.total - self._diagonal()
        inverse = np.linalg.inv(off * weights + self._diagonal())
        seen = inverse @ weighted
        value = np.einsum("i,nii->n", weights, seen).mean()
        direct = np.einsum("nii->i", seen)
        bent = np.einsum("nij,j,njk,nki->i", seen, weights, inverse, off, optimize=True)
        return float(value), (direct - bent) / len(self.total)

    def _noise(self) -> np.ndarray:
        return self._experiment.noise_block(np.arange(len(self._experiment.shift)))

    def _diagonal(self) -> np.ndarray:
        """D, the blocks of Γ on the candidates themselves."""
        same = np.eye(len(self._experiment.shift), dtype=bool)
        for rows in self._experiment.groups:
            same[np.ix_(rows, rows)] = True
        return np.where(same, self._noise(), 0.0)

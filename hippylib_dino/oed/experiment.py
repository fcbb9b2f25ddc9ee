"""Candidate sensors, their noise, and draws of parameters and noise that stand for the data to come.

Every candidate is one observable, or a group of observables that come together: the components of a sensor, the
readings of a time window.  Observables are counted in standard deviations of their noise, so that sensors of different
units may be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg as sla

from hippylib_dino.errors import InputError
from hippylib_dino.inference.reduced import check_of_observables
from hippylib_dino.network.dino import DINO
from hippylib_dino.network.latent_map import LatentMap
from hippylib_dino.noise import NoiseCovariance
from hippylib_dino.oed.affine import AffineMap
from hippylib_dino.random_streams import Purpose, generator


@dataclass(frozen=True)
class Draws:
    """Parameters and noise, the same for all designs, so that differences between designs have little noise.

    Attributes
    ----------
    x : (n, rM)
        Latent parameters, N(0, I) under the prior.
    noise : (n, dQ)
        Of all observables, N(0, Γ), in their units.

    Raises
    ------
    InputError
        If there is none, or not one noise for each parameter.
    """

    x: np.ndarray
    noise: np.ndarray

    def __post_init__(self):
        if np.ndim(self.x) != 2 or np.ndim(self.noise) != 2 or len(self.x) != len(self.noise) or len(self.x) < 1:
            raise InputError(
                f"draws: expected x (n, rM) and noise (n, dQ) of at least one draw, got {np.shape(self.x)} and "
                f"{np.shape(self.noise)}."
            )

    @classmethod
    def sample(cls, input_rank: int, noise_covariance: NoiseCovariance, n_draws: int, seed: int) -> Draws:
        """Prior draws; the first n are the same for any larger number.

        Raises
        ------
        InputError
            If `n_draws` is less than 1.
        """
        if n_draws < 1:
            raise InputError(f"n_draws: expected at least 1, got {n_draws}.")
        parameters, noise = (generator(p, seed) for p in (Purpose.DESIGN_DRAWS, Purpose.DESIGN_NOISE))
        return cls(
            parameters.standard_normal((n_draws, input_rank)),
            noise_covariance.color(noise.standard_normal((n_draws, noise_covariance.dim)).T).T,
        )


@dataclass(frozen=True)
class Experiment:
    """What any design is evaluated with; see `make_experiment`.

    Attributes
    ----------
    f : LatentMap
        Of z, N(0, I) before the experiment.
    decoder : (dQ, rQ)
        Φ, rows in noise standard deviations.
    shift : (dQ,)
        q̄, in observables' units.
    deviation : (dQ,)
        Noise standard deviations.
    correlation : (dQ, dQ) or None
        Of the noise; None where it is independent.
    groups : tuple of int arrays
        Observables of each candidate.
    draws : Draws
    measured : tuple of int
        Candidates that are measured, whose data have gone into the law of the parameter.
    mean : (rM,)
    root : (rM, rM) or None
        x = mean + root z is the latent parameter; None for the identity.
    """

    f: LatentMap
    decoder: np.ndarray
    shift: np.ndarray
    deviation: np.ndarray
    correlation: np.ndarray | None
    groups: tuple[np.ndarray, ...]
    draws: Draws
    measured: tuple[int, ...] = ()
    mean: np.ndarray | None = None
    root: np.ndarray | None = None

    @property
    def n_draws(self) -> int:
        """Number of draws."""
        return len(self.draws.x)

    def check(self, design: Iterable[int]) -> tuple[int, ...]:
        """The design as sorted numbers of candidates.

        Raises
        ------
        InputError
            As `check_design`; if a candidate is measured.
        """
        checked = check_design(design, len(self.groups))
        again = sorted(set(checked) & set(self.measured))
        if again:
            raise InputError(f"design: sensors {again} are measured; choose among the others.")
        return checked

    def rows(self, design: Sequence[int]) -> np.ndarray:
        """Observables of a design, (k,)."""
        return np.concatenate([self.groups[s] for s in design]) if len(design) else np.empty(0, dtype=int)

    def noise_block(self, rows: np.ndarray) -> np.ndarray:
        """Correlation of the noise of observables, (k, k): the sub-block, whose inverse weighs the misfit."""
        return np.eye(len(rows)) if self.correlation is None else self.correlation[np.ix_(rows, rows)]

    def whiten(self, rows: np.ndarray, scaled: np.ndarray) -> np.ndarray:
        """C⁻¹ a with noise_block = C Cᵀ, for a (k, ...) in noise standard deviations."""
        if self.correlation is None:
            return scaled
        return sla.solve_triangular(np.linalg.cholesky(self.noise_block(rows)), scaled, lower=True)

    def data(self) -> np.ndarray:
        """What all sensors would read less q̄, in noise standard deviations, (n, dQ)."""
        return self.f.value(self.draws.x) @ self.decoder.T + self.draws.noise / self.deviation

    def condition(self, design: Sequence[int], data: np.ndarray, z: np.ndarray, root: np.ndarray) -> Experiment:
        """The experiment that comes after `data` were measured by `design`, with N(z, root rootᵀ) as law before it.

        Correlated noise tells of the noise to come: with A = Γ_no Γ_oo⁻¹ the new sensors read
        q_n(x) + A(d_o - q_o(x)) and noise of covariance Γ_nn - A Γ_on.
        """
        old = self.rows(design)
        decoder, shift, deviation, correlation = self.decoder, self.shift, self.deviation, self.correlation
        if correlation is not None:
            new = np.setdiff1d(np.arange(len(shift)), old)
            A = np.linalg.solve(self.noise_block(old), correlation[np.ix_(old, new)]).T
            decoder, shift, correlation = decoder.copy(), shift.copy(), correlation.copy()
            decoder[new] -= A @ decoder[old]
            shift[new] += deviation[new] * (A @ ((data - shift[old]) / deviation[old]))
            correlation[np.ix_(new, new)] -= A @ correlation[np.ix_(old, new)]
            correlation[np.ix_(new, old)], correlation[np.ix_(old, new)] = 0.0, 0.0
            less = np.sqrt(np.diag(correlation))
            correlation /= np.outer(less, less)
            decoder, deviation = decoder / less[:, None], deviation * less
        independent = self.draws.noise / self.deviation
        if correlation is not None and self.correlation is not None:
            white = sla.solve_triangular(np.linalg.cholesky(self.correlation), independent.T, lower=True)
            independent = (np.linalg.cholesky(correlation) @ white).T
        mean = z if self.root is None else self.mean + self.root @ z
        return replace(
            self,
            f=AffineMap(self.f, z, root),
            decoder=decoder,
            shift=shift,
            deviation=deviation,
            correlation=correlation,
            draws=Draws(self.draws.x, independent * deviation),
            measured=tuple(sorted({*self.measured, *design})),
            mean=mean,
            root=root if self.root is None else self.root @ root,
        )


def make_experiment(
    dino: DINO, noise_covariance, *, groups: Sequence[Sequence[int]] | None, draws: Draws | int, seed: int
) -> Experiment:
    """Check what a user gives, and put it together.

    Raises
    ------
    MisfitError
        If `noise_covariance` has another shape, or is not positive definite.
    InputError
        If groups or draws do not fit the DINO.
    """
    basis = dino.output_basis
    check_of_observables(dino)
    if dino.input_basis.inner_product != "prior precision":
        raise InputError(
            "dino: expected latent parameters that are white under the prior, got those of a learned encoder. Train a "
            "DINO on reduced samples."
        )
    noise = NoiseCovariance.of(noise_covariance, basis.dim)
    if isinstance(draws, int):
        draws = Draws.sample(dino.input_basis.rank, noise, draws, seed)
    expected = (dino.input_basis.rank, basis.dim)
    if (draws.x.shape[1], draws.noise.shape[1]) != expected:
        raise InputError(
            f"draws: expected x (n, {expected[0]}) and noise (n, {expected[1]}), got {draws.x.shape} and "
            f"{draws.noise.shape}."
        )
    dense = noise.to_dense()
    deviation = np.sqrt(np.diag(dense))
    return Experiment(
        f=dino.latent_map,
        decoder=basis.decoder / deviation[:, None],
        shift=basis.shift,
        deviation=deviation,
        correlation=dense / np.outer(deviation, deviation) if noise.value.ndim == 2 else None,
        groups=check_groups(groups, basis.dim),
        draws=draws,
    )


def check_design(design: Iterable[int], n_candidates: int) -> tuple[int, ...]:
    """The design as sorted numbers of candidates.

    Raises
    ------
    InputError
        If a number is none of a candidate, or comes twice.
    """
    design = tuple(design)
    strange = [s for s in design if not isinstance(s, (int, np.integer)) or not 0 <= s < n_candidates]
    if strange:
        raise InputError(f"design: expected numbers of candidates, 0 to {n_candidates - 1}, got {strange[:5]}.")
    if len(set(design)) < len(design):
        raise InputError(f"design: expected each sensor once, got {sorted(design)}.")
    return tuple(sorted(int(s) for s in design))


def check_groups(groups: Sequence[Sequence[int]] | None, dim: int) -> tuple[np.ndarray, ...]:
    """Observables of each candidate; each its own by default.

    Raises
    ------
    InputError
        If there is none, one is empty, unknown, or in two candidates.
    """
    if groups is None:
        return tuple(np.array([row]) for row in range(dim))
    checked = tuple(np.atleast_1d(np.asarray(group)) for group in groups)
    if not checked or any(len(group) == 0 for group in checked):
        raise InputError("groups: expected at least one candidate, each with at least one observable.")
    rows = np.concatenate(checked)
    if not np.issubdtype(rows.dtype, np.integer) or rows.min() < 0 or rows.max() >= dim:
        raise InputError(f"groups: expected numbers of observables, 0 to {dim - 1}, got {rows.min()} to {rows.max()}.")
    if len(np.unique(rows)) < len(rows):
        raise InputError("groups: expected each observable in one candidate at most.")
    return checked

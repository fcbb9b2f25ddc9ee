"""What a design of sensors is expected to tell: information gain, reduction of variance, of the log-determinant.

A criterion is the mean over draws (x_i, η_i) of prior and noise.  Design S reads d_i = (q(x_i) + η_i)_S; with the
Laplace approximation at its MAP point, and λ the eigenvalues of the misfit's Gauss-Newton Hessian there,

    information gain    ½ Σ ln(1+λ) - ½ Σ λ/(1+λ) + ½‖x_MAP‖²,          KL(posterior ‖ prior)
    A-optimality        tr C_prior - tr C_post = tr(F Fᵀ (I - (I + H)⁻¹)), C in the norm of F Fᵀ
    D-optimality        Σ ln(1+λ) = ln det C_prior - ln det C_post.

All are to be maximised, and 0 without sensors.

References
----------
Chaloner, Verdinelli, "Bayesian experimental design: a review", Statistical Science 10 (1995).
Alexanderian, "Optimal experimental design for infinite-dimensional Bayesian inverse problems governed by PDEs: a
review", Inverse Problems 37 (2021), arXiv 2005.12998.
Wu, Chen, Ghattas, "A fast and scalable computational framework for large-scale high-dimensional Bayesian optimal
experimental design", SIAM/ASA J. Uncertain. Quantif. 11 (2023), arXiv 2010.15196.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.intervals import check_confidence, of_mean
from hippylib_dino.network.dino import DINO
from hippylib_dino.oed.experiment import Draws, Experiment, make_experiment
from hippylib_dino.oed.laplace import LaplaceBatch, laplace_batches
from hippylib_dino.oed.tangent import Tangent

ENGINES = ("numpy", "keras")
METHODS = ("laplace", "linearized")


@dataclass(frozen=True)
class Estimate:
    """Mean over draws.

    Attributes
    ----------
    value : float
    standard_error : float
        NaN for one draw.
    interval : (2,)
        Confidence interval of the mean over all draws, of which those here are samples; (NaN, NaN) where there is none.
    n_draws, n_failed : int
        Draws that count, and those whose MAP point was not found and that do not.
    reason : str
        Why there is no interval; "" where there is one.
    """

    value: float
    standard_error: float
    interval: tuple[float, float]
    n_draws: int
    n_failed: int
    reason: str = ""


def mean_over_draws(samples: np.ndarray, confidence: float = 0.95) -> Estimate:
    """`Estimate` from values of the draws (n,), NaN for those that failed.

    The interval allows for skewed and heavy-tailed gains, see `hippylib_dino.intervals`.

    Raises
    ------
    InputError
        If `confidence` is no level in (0, 1), or no draw has a value.
    """
    check_confidence(confidence)
    good = samples[np.isfinite(samples)]
    if len(good) == 0:
        raise InputError(f"samples: expected values of at least one draw, got {len(samples)} that failed.")
    value = float(good.mean())
    error = float(good.std(ddof=1) / np.sqrt(len(good))) if len(good) > 1 else float("nan")
    interval, reason = of_mean(good, confidence)
    return Estimate(value, error, interval, len(good), len(samples) - len(good), reason)


class Criterion(abc.ABC):
    """A function of a design, the numbers of its candidate sensors.

    Parameters
    ----------
    dino : DINO
        Its observables are those of all candidates.
    noise_covariance : float, (dQ,), (dQ, dQ) or NoiseCovariance
        Γ of all candidates.  A design is weighed by the inverse of its sub-block.
    n_draws : int
        Draws of parameter and noise.
    seed : int
        Of the draws.
    method : str
        "laplace": the MAP point for each draw, and the Laplace approximation there.  "linearized": at each draw the
        problem is linearised, which has a closed form; exact where the observable is linear in the parameter.
    groups : sequence of sequences of int, optional
        Observables of each candidate; default one candidate for each observable.
    draws : Draws, optional
        In place of `n_draws` and `seed`.
    rel_tolerance : float
        Of a MAP point: norm of the gradient relative to that at the prior mean.
    engine : str
        What MAP points are solved with: "numpy", or "keras", the device that Keras's backend uses, such as a GPU.
        There thousands of pairs are solved at once by Gauss-Newton steps in float64, of a DINO that `hd.train` made.
    max_failed : float
        Largest share of draws whose MAP point is not found; they are left out of the mean.

    Attributes
    ----------
    name : str
        Of the criterion, as `PDEResult` has it.
    dino : DINO
    experiment : Experiment
        Candidates, noise and draws as the criterion uses them.
    n_candidates : int
    n_pairs, n_failed : int
        (design, draw) pairs whose MAP points were asked for so far, and those that were not found.

    Raises
    ------
    MisfitError
        If `noise_covariance` has another shape, or is not positive definite.
    InputError
        If another argument does not fit.
    """

    name: str

    def __init__(
        self,
        dino: DINO,
        noise_covariance,
        n_draws: int = 64,
        seed: int = 0,
        *,
        method: str = "laplace",
        groups: Sequence[Sequence[int]] | None = None,
        draws: Draws | None = None,
        rel_tolerance: float = 1e-4,
        engine: str = "numpy",
        max_failed: float = 0.1,
    ):
        if method not in METHODS:
            raise InputError(f"method: expected one of {METHODS}, got {method!r}.")
        if engine not in ENGINES:
            raise InputError(f"engine: expected one of {ENGINES}, got {engine!r}.")
        if not rel_tolerance > 0:
            raise InputError(f"rel_tolerance: expected > 0, got {rel_tolerance}.")
        if not 0 <= max_failed < 1:
            raise InputError(f"max_failed: expected a share in [0, 1), got {max_failed}.")
        self.dino = dino
        self.method, self._tolerance, self._engine, self._max_failed = method, rel_tolerance, engine, max_failed
        self._use(
            make_experiment(dino, noise_covariance, groups=groups, draws=n_draws if draws is None else draws, seed=seed)
        )

    def _use(self, experiment: Experiment) -> None:
        self.experiment, self._data = experiment, experiment.data()
        self._known: dict[tuple[int, ...], np.ndarray] = {(): np.zeros(experiment.n_draws)}
        self._controls: dict[tuple[int, ...], np.ndarray] = {(): np.zeros(experiment.n_draws)}
        self._tangent: Tangent | None = None
        self._mean_tangent: Tangent | None = None
        self.n_pairs = self.n_failed = 0

    # ---- what a criterion is -------------------------------------------------------------

    @abc.abstractmethod
    def _at_map(self, batch: LaplaceBatch) -> np.ndarray:
        """Values (n,) at MAP points."""

    @abc.abstractmethod
    def _linearized(self, tangent: Tangent, design: Sequence[int]) -> np.ndarray:
        """Values (n_draws,) of a design."""

    @abc.abstractmethod
    def _linearized_extensions(self, tangent: Tangent, design: Sequence[int], candidates: Sequence[int]) -> np.ndarray:
        """Values (n_candidates, n_draws) of the design with each candidate added, by low-rank updates."""

    @abc.abstractmethod
    def _relaxed(self, tangent: Tangent, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Linearised value and gradient (dQ,) for weights (dQ,) of the observables."""

    def _control(self, design: tuple[int, ...]) -> np.ndarray:
        """What to take from the values at MAP points; of mean zero."""
        return np.zeros(self.experiment.n_draws)

    # ---- values --------------------------------------------------------------------------

    @property
    def n_candidates(self) -> int:
        """Number of candidate sensors."""
        return len(self.experiment.groups)

    @property
    def measured(self) -> tuple[int, ...]:
        """Candidates that have been measured (`condition`)."""
        return self.experiment.measured

    @property
    def draws(self) -> Draws:
        """Parameters and noise that the criterion is the mean over."""
        return self.experiment.draws

    @property
    def parameter_law(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (rM,) and root T (rM, rM) of the latent parameter's law N(mean, TTᵀ), the prior or what it became."""
        mean, root, rank = self.experiment.mean, self.experiment.root, self.draws.x.shape[1]
        return (
            np.zeros(rank) if mean is None else mean.copy(),
            np.eye(rank) if root is None else root.copy(),
        )

    def __call__(self, design: Iterable[int]) -> float:
        """The criterion of a design; the larger the better.

        Raises
        ------
        InputError
            If a sensor is unknown, or comes twice.
        SolveError
            If more draws fail than `max_failed` allows.
        """
        return float(self.evaluate([design])[0])

    def evaluate(self, designs: Iterable[Iterable[int]]) -> np.ndarray:
        """Values of many designs at once, (n,); errors as for one."""
        return np.array([self._mean(design, values) for design, values in self._samples(designs)])

    def samples(self, design: Iterable[int]) -> np.ndarray:
        """Values of the draws, (n_draws,); NaN where no MAP point was found."""
        ((_, values),) = self._samples([design])
        return values.copy()

    def control(self, design: Iterable[int]) -> np.ndarray:
        """Control variate of the draws, (n_draws,): its expectation is 0, and means are of samples less this."""
        checked = self.experiment.check(design)
        if checked not in self._controls:
            self._controls[checked] = self._control(checked)
        return self._controls[checked].copy()

    def estimate(self, design: Iterable[int], confidence: float = 0.95) -> Estimate:
        """Mean over the draws with its confidence interval; errors as for `evaluate`."""
        ((checked, values),) = self._samples([design])
        self._mean(checked, values)
        return mean_over_draws(values - self.control(checked), confidence)

    def extensions(self, design: Iterable[int], candidates: Sequence[int]) -> np.ndarray:
        """Values of the design with each of the candidates added, (n_candidates,).

        Linearised criteria are updated by a low rank; MAP points start from those of the design.
        """
        base = self.experiment.check(design)
        checked = [self.experiment.check([*base, c]) for c in candidates]
        if self.method == "linearized":
            return self._linearized_extensions(self._at_draws(), base, list(candidates)).mean(axis=1)
        missing = [c for c in checked if c not in self._known]
        if missing and base:
            batch = self.map_points(base)
            points = np.where(batch.converged[:, None], batch.x, self.draws.x)
            self._solve(missing, Tangent(self.experiment, points, self._data))
        return self.evaluate(checked)

    def _samples(self, designs: Iterable[Iterable[int]]) -> list[tuple[tuple[int, ...], np.ndarray]]:
        checked = [self.experiment.check(design) for design in designs]
        missing = list(dict.fromkeys(design for design in checked if design not in self._known))
        if self.method == "linearized":
            for design in missing:
                self._known[design] = self._linearized(self._at_draws(), design)
        elif missing:
            self._solve(missing, self._at_draws())
        return [(design, self._known[design]) for design in checked]

    def _solve(self, designs: list[tuple[int, ...]], start: Tangent) -> None:
        for batch in self._batches(designs, start):
            values = np.where(batch.converged, self._at_map(batch), np.nan)
            self.n_pairs += values.size
            self.n_failed += int(np.count_nonzero(~batch.converged))
            for design, own in zip(batch.designs, values.reshape(len(batch.designs), -1), strict=True):
                self._known[design] = own

    def _batches(self, designs: list[tuple[int, ...]], start: Tangent) -> Iterator[LaplaceBatch]:
        return laplace_batches(
            self.experiment, designs, self._data, start=start, at_mean=self._at_mean(), rel_tolerance=self._tolerance,
            engine=self._engine,
        )  # fmt: skip

    def _mean(self, design: tuple[int, ...], values: np.ndarray) -> float:
        good = np.isfinite(values)
        failed = int(np.count_nonzero(~good))
        if failed > self._max_failed * len(values):
            raise SolveError(
                f"design {list(design)}: the MAP points of {failed} of {len(values)} draws did not converge, first "
                f"those of draws {np.flatnonzero(~good)[:5].tolist()}: more than {self._max_failed:.0%}, max_failed. "
                "Raise max_failed or rel_tolerance, or train a better DINO."
            )
        return float((values - self.control(design))[good].mean())

    def _at_draws(self) -> Tangent:
        if self._tangent is None:
            self._tangent = Tangent(self.experiment, self.draws.x, self._data)
        return self._tangent

    def _at_mean(self) -> Tangent:
        if self._mean_tangent is None:
            self._mean_tangent = Tangent(self.experiment, np.zeros((1, self.draws.x.shape[1])), self._data)
        return self._mean_tangent

    def map_points(self, design: Iterable[int], start: np.ndarray | None = None) -> LaplaceBatch:
        """MAP points and whitened Jacobians of a design for all draws.

        Parameters
        ----------
        design : sensor numbers
        start : (n_draws, rM), optional
            Where to look from; default the parameters that made the data.

        Raises
        ------
        InputError
            If the design is empty, or a sensor is unknown or comes twice.
        """
        checked = self.experiment.check(design)
        if not checked:
            raise InputError("design: expected at least one sensor, got none.")
        tangent = self._at_draws() if start is None else Tangent(self.experiment, start, self._data)
        (batch,) = self._batches([checked], tangent)
        return batch

    # ---- for the searches ----------------------------------------------------------------

    def leverage_scores(self, n_vectors: int) -> np.ndarray:
        """Row norms of the `n_vectors` dominant eigenvectors of E[J Jᵀ], summed over each candidate, (n_candidates,).

        J is the Jacobian at the draws in whitened data; Wu, Chen, Ghattas, section 4.2.
        """
        J = self._at_draws().jacobian
        every = np.arange(len(self.experiment.shift))
        gram = self.experiment.whiten(every, np.einsum("nij,nkj->ik", J, J) / len(J))
        gram = self.experiment.whiten(every, gram.T)
        _, vectors = np.linalg.eigh(0.5 * (gram + gram.T))
        scores = (vectors[:, ::-1][:, :n_vectors] ** 2).sum(axis=1)
        return np.array([scores[rows].sum() for rows in self.experiment.groups])

    def relaxed(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Linearised criterion and gradient (n_candidates,) for weights (n_candidates,) in [0, 1] of the sensors.

        At weights 0 and 1 it is the linearised criterion of the design; see `Tangent.relaxed_log_determinant`.
        """
        spread = np.zeros(len(self.experiment.shift))
        for weight, rows in zip(weights, self.experiment.groups, strict=True):
            spread[rows] = weight
        value, gradient = self._relaxed(self._at_draws(), spread)
        return value, np.array([gradient[rows].sum() for rows in self.experiment.groups])

    def with_draws(self, draws: Draws) -> Criterion:
        """The same criterion as a mean over other draws.

        Raises
        ------
        InputError
            If they are of other dimensions.
        """
        expected = (self.draws.x.shape[1], self.draws.noise.shape[1])
        if (draws.x.shape[1], draws.noise.shape[1]) != expected:
            raise InputError(
                f"draws: expected x (n, {expected[0]}) and noise (n, {expected[1]}), got {draws.x.shape} and "
                f"{draws.noise.shape}."
            )
        other = copy.copy(self)
        other._use(replace(self.experiment, draws=draws))
        return other

    def condition(self, design: Iterable[int], data: np.ndarray) -> Criterion:
        """The criterion for the sensors to come, after those of `design` have read `data`.

        Their Laplace posterior takes the place of the prior: gains are counted from it, and draws are made of it.

        Parameters
        ----------
        design : sensor numbers
        data : (k,)
            Observables of the design, in the order of the sensors given, in their units.

        Raises
        ------
        InputError
            If a sensor is unknown or measured before, or data have another shape.
        SolveError
            If the MAP point of the data is not found.
        """
        design = list(design)
        self.experiment.check(design)
        rows, data = self.experiment.rows(design), np.asarray(data, dtype=float)
        if data.shape != rows.shape or not np.isfinite(data).all():
            raise InputError(f"data: expected {len(rows)} finite values, those of the design, got shape {data.shape}.")
        if not design:
            raise InputError("design: expected at least one sensor.")
        after = copy.copy(self)
        after._use(_conditioned(self.experiment, design, data, self._tolerance))
        return after


def _conditioned(experiment: Experiment, design: list[int], data: np.ndarray, rel_tolerance: float) -> Experiment:
    """The experiment after measured data: law of the parameter by its Laplace approximation."""
    rows = experiment.rows(design)
    reading = np.zeros((1, len(experiment.shift)))
    reading[0, rows] = (data - experiment.shift[rows]) / experiment.deviation[rows]
    start = Tangent(experiment, np.zeros((1, experiment.f.input_rank)), reading)
    (batch,) = laplace_batches(
        experiment, [tuple(design)], reading, start=start, at_mean=start, rel_tolerance=rel_tolerance
    )
    if not batch.converged[0]:
        raise SolveError(f"data: the MAP point of what sensors {design} read did not converge.")
    _, singular, vectors = np.linalg.svd(batch.jacobian[0], full_matrices=False)
    shrink = 1 / np.sqrt(1 + singular**2) - 1
    root = np.eye(batch.x.shape[1]) + (vectors.T * shrink) @ vectors
    return experiment.condition(design, data, batch.x[0], root)


class _ByDeterminant(Criterion):
    """A criterion that for a linear problem is a multiple of Σ ln(1+λ)."""

    _factor: float

    def _linearized(self, tangent: Tangent, design: Sequence[int]) -> np.ndarray:
        return self._factor * tangent.log_determinant(design)

    def _linearized_extensions(self, tangent: Tangent, design: Sequence[int], candidates: Sequence[int]) -> np.ndarray:
        return self._factor * tangent.log_determinants(design, candidates)

    def _relaxed(self, tangent: Tangent, weights: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = tangent.relaxed_log_determinant(weights)
        return self._factor * value, self._factor * gradient


class InformationGain(_ByDeterminant):
    """Expected information gain E[KL(posterior ‖ prior)], in nats.

    By MAP points each draw gives ½ Σ ln(1+λ) - ½ Σ λ/(1+λ) + ½‖x_MAP‖².  Most of the variance is that of the last term.
    The same term of the problem linearised at the prior mean, for the same parameter and noise, less its expectation,
    which is known, is the control variate: the mean keeps its expectation, and of a linear problem is exact.
    Linearised at the draws, the expectation of a linear problem is taken, ½ Σ ln(1+λ).

    Parameters, attributes and errors: see `Criterion`.

    Examples
    --------
    ::

        gain = hd.oed.InformationGain(dino, model.noise_covariance, n_draws=64, seed=0)
        design = hd.oed.swapping_greedy(gain, n_sensors=10)
        print(design.sensors, gain.estimate(design))
    """

    name = "information_gain"
    _factor = 0.5

    def _at_map(self, batch: LaplaceBatch) -> np.ndarray:
        inner = _inner(batch.jacobian)
        spread = inner.shape[1] - np.trace(np.linalg.inv(inner), axis1=1, axis2=2)
        return 0.5 * (np.linalg.slogdet(inner)[1] - spread + (batch.x**2).sum(axis=1))

    def _control(self, design: tuple[int, ...]) -> np.ndarray:
        if self.method == "linearized":
            return super()._control(design)
        return self._at_mean().excess(design, self.draws.x, self.draws.noise / self.experiment.deviation)


class DLogDet(_ByDeterminant):
    """Expected decrease of the log-determinant of the covariance, E[Σ ln(1+λ)] (D-optimality).

    Parameters, attributes and errors: see `Criterion`.
    """

    name = "log_determinant"
    _factor = 1.0

    def _at_map(self, batch: LaplaceBatch) -> np.ndarray:
        return np.linalg.slogdet(_inner(batch.jacobian))[1]


class ATrace(Criterion):
    """Expected decrease of the trace of the covariance, E[tr C_prior - tr C_post] (A-optimality).

    The trace is that of Q C in latent coordinates: with Q = ΨᵀMΨ (`gram`), M the mass matrix, the integral of the
    pointwise variance.  What a parameter has outside the input basis keeps its variance, whatever the design.

    Parameters
    ----------
    gram : (rM, rM) array
        Q, symmetric and positive semidefinite; `hd.oed.mass_gram(model.prior, dino.input_basis)` for the mass norm.

    Attributes
    ----------
    prior_trace : float
        tr Q C_prior within the basis, the bound of the criterion.

    Notes
    -----
    Other parameters, attributes and errors: see `Criterion`.
    """

    name = "trace"

    def __init__(self, dino: DINO, noise_covariance, n_draws: int = 64, seed: int = 0, *, gram: np.ndarray, **options):
        rank = dino.input_basis.rank
        gram = np.asarray(gram, dtype=float)
        if gram.shape != (rank, rank) or not np.allclose(gram, gram.T, rtol=1e-8, atol=1e-12 * np.abs(gram).max()):
            raise InputError(f"gram: expected a symmetric matrix ({rank}, {rank}), got shape {gram.shape}.")
        values, vectors = np.linalg.eigh(gram)
        if values[0] < -1e-10 * values[-1]:
            raise InputError(f"gram: expected no negative eigenvalue, got {values[0]:.3g}.")
        kept = values > 1e-14 * values[-1]
        self._factor = vectors[:, kept] * np.sqrt(values[kept])
        super().__init__(dino, noise_covariance, n_draws, seed, **options)

    def _use(self, experiment: Experiment) -> None:
        super()._use(experiment)
        self._own = self._factor if experiment.root is None else experiment.root.T @ self._factor
        self.prior_trace = float((self._own**2).sum())
        self._weighted: np.ndarray | None = None

    def _at_map(self, batch: LaplaceBatch) -> np.ndarray:
        seen = batch.jacobian @ self._own
        return (np.linalg.solve(_inner(batch.jacobian), seen) * seen).sum(axis=(1, 2))

    def _linearized(self, tangent: Tangent, design: Sequence[int]) -> np.ndarray:
        return tangent.trace(design, self._products(tangent))

    def _linearized_extensions(self, tangent: Tangent, design: Sequence[int], candidates: Sequence[int]) -> np.ndarray:
        return tangent.traces(design, candidates, self._products(tangent))

    def _relaxed(self, tangent: Tangent, weights: np.ndarray) -> tuple[float, np.ndarray]:
        return tangent.relaxed_trace(weights, self._products(tangent))

    def _products(self, tangent: Tangent) -> np.ndarray:
        """P = J F Fᵀ Jᵀ, (n, dQ, dQ)."""
        if self._weighted is None:
            seen = tangent.jacobian @ self._own
            self._weighted = seen @ seen.swapaxes(1, 2)
        return self._weighted


class GoalVariance(ATrace):
    """Expected decrease of the variance of linear quantities of interest wᵀm, summed over them.

    Parameters
    ----------
    goals : (dM,) or (n_goals, dM) array
        w, dual vectors in canonical dof order.

    Notes
    -----
    Other parameters, attributes and errors: see `Criterion`.
    """

    name = "goal_variance"

    def __init__(self, dino: DINO, noise_covariance, n_draws: int = 64, seed: int = 0, *, goals: np.ndarray, **options):
        goals = np.atleast_2d(np.asarray(goals, dtype=float))
        dim = dino.input_basis.dim
        if goals.ndim != 2 or goals.shape[1] != dim or not np.isfinite(goals).all():
            raise InputError(f"goals: expected finite values of shape ({dim},) or (n, {dim}), got {goals.shape}.")
        seen = goals @ dino.input_basis.decoder
        super().__init__(dino, noise_covariance, n_draws, seed, gram=seen.T @ seen, **options)


def _inner(G: np.ndarray) -> np.ndarray:
    """I + G Gᵀ, (n, k, k)."""
    return G @ G.swapaxes(1, 2) + np.eye(G.shape[1])

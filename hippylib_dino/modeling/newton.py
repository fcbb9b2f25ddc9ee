"""Error-oriented Newton method with damping and quasi-Newton steps.

Reference: P. Deuflhard, Newton Methods for Nonlinear Problems, Springer 2004: algorithms NLEQ-ERR
(sections 3.3.1, 3.3.3) and QNERR (section 2.1.4).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import dolfin as dl
from hippylib.utils.warnings import ModelConvergenceError

from hippylib_dino.errors import InputError, SolveError


@dataclasses.dataclass(frozen=True)
class SolveReport:
    """What a forward solve did.

    Attributes
    ----------
    iterations : int
        Steps taken, with a new matrix or an old one.
    residual_assemblies, factorizations : int
        Of the forward solve alone; each factorization goes with one assembly of A.
    reason : str
        Why it ended.
    increment : float
        Size of the last correction relative to the state, Euclidean norm of coefficients.
    """

    iterations: int
    residual_assemblies: int
    factorizations: int
    reason: str
    increment: float


class ForwardSolveError(SolveError, ModelConvergenceError):
    """A forward solve did not converge; hIPPYlib's line searches catch it and shorten their step.

    Attributes
    ----------
    report : SolveReport or None
    """

    def __init__(self, message: str, report: SolveReport | None = None):
        super().__init__(message)
        self.report = report


@dataclasses.dataclass(frozen=True)
class NewtonOptions:
    """Settings of `Newton`.

    Attributes
    ----------
    tolerance : float
        Of the estimated error of the state, relative, Euclidean norm of coefficients: of mixed states, small
        components are as accurate as the largest ones ask for.
    max_iterations : int
    chord_threshold : float
        Contraction factor up to which the factorization is kept.
    min_damping : float
        Smallest step length before the iteration gives up; 1 for no damping.
    """

    tolerance: float = 1e-11
    max_iterations: int = 50
    chord_threshold: float = 0.2
    min_damping: float = 1e-4

    def __post_init__(self):
        if not (0.0 < self.tolerance < 0.1 and self.max_iterations >= 1):
            raise InputError(
                "tolerance, max_iterations: expected 0 < tolerance < 0.1 and max_iterations >= 1, "
                f"got {self.tolerance} and {self.max_iterations}."
            )
        if not (0.0 <= self.chord_threshold < 1.0 and 0.0 < self.min_damping <= 1.0):
            raise InputError(
                "chord_threshold, min_damping: expected 0 <= chord_threshold < 1 and 0 < min_damping <= 1, "
                f"got {self.chord_threshold} and {self.min_damping}."
            )


class Newton:
    """Solve r(u) = 0 by corrections δ = -A⁻¹ r, measured by what they do to the error of u.

    A step λδ is accepted if the next correction with the *same* matrix is shorter (natural monotonicity
    test, which does not depend on how the equations are scaled).  If it is shorter by the factor
    `chord_threshold` the matrix is kept and its corrections are improved by good Broyden updates.

    Parameters
    ----------
    residual : callable ``residual(u, out)``
        Assembles r(u).
    linearize : callable ``linearize(u)``
        Assembles A at u.
    correct : callable ``correct(out, r)``
        out = A⁻¹ r with the matrix of the last `linearize`.
    options : NewtonOptions
    """

    # a correction of this relative size that no longer contracts is rounding
    ROUNDING = 1e-9

    def __init__(self, residual: Callable, linearize: Callable, correct: Callable, options: NewtonOptions):
        self._assemble, self._linearize, self._correct = residual, linearize, correct
        self._options = options

    def solve(self, u: dl.GenericVector) -> SolveReport:
        """Overwrite the guess `u` with the solution.

        Raises
        ------
        ForwardSolveError
            If the iteration does not converge; with iterations and reason.
        """
        tolerance, threshold = self._options.tolerance, self._options.chord_threshold
        self._u, self._r, self._start = u, u.copy(), _norm(u)
        self._iterations = self._residuals = self._factorizations = 0
        self._size = math.inf
        if not self._evaluate():
            raise self._error("the residual at the initial guess is not finite")
        rate = math.inf  # ‖next correction‖ / ‖correction‖², once measured
        previous = None  # size, damping, simplified correction of the last damped step
        while True:
            self._refresh()
            delta = self._correction()
            size = _norm(delta)
            # a Newton correction measures the error before it is applied; the error after is quadratic in it
            if self._relative(size) <= tolerance or 10 * self._relative(rate * size) * size <= tolerance:
                self._u.axpy(1.0, delta)
                self._count(size)
                return self._report("Newton correction below the tolerance")
            damping, simplified = self._step(delta, size, _predicted(previous, delta, size))
            previous = (size, damping, simplified) if damping < 1.0 else None
            theta = _norm(simplified) / size
            rate = theta / size if damping == 1.0 else math.inf
            if theta > 0.5 and self._at_rounding(size):
                return self._report("corrections at the level of rounding")
            if damping == 1.0 and theta <= threshold:
                reason = self._quasi_newton(delta, simplified, theta)
                if reason is not None:
                    return self._report(reason)
                rate = math.inf

    # ---- parts of the iteration ----------------------------------------------------------

    def _step(self, delta: dl.GenericVector, size: float, damping: float) -> tuple[float, dl.GenericVector]:
        """Move u along `delta` by `damping` or less; the damping, and the next correction with the same matrix."""
        start = self._u.copy()
        while True:
            self._u.axpy(damping, delta)
            best = 0.0
            if self._evaluate():
                simplified = self._correction()
                if _norm(simplified) <= (1.0 - damping / 4) * size or self._at_rounding(size):
                    self._count(damping * size)
                    return damping, simplified
                # the minimum of the quadratic model of the error along the step
                deviation = simplified.copy()
                deviation.axpy(damping - 1.0, delta)
                best = 0.5 * size * damping**2 / _norm(deviation)
            damping = min(max(best, damping / 10), damping / 2)
            if damping < self._options.min_damping:
                raise self._error("no step along the Newton direction reduces the error")
            _copy(start, self._u)

    def _quasi_newton(self, delta: dl.GenericVector, simplified: dl.GenericVector, theta: float) -> str | None:
        """Steps with the matrix in hand; why they converged, or None where a new matrix is due."""
        steps, correction = [(delta, delta.inner(delta))], simplified
        while True:
            last, square = steps[-1]
            correction *= 1.0 / (1.0 - correction.inner(last) / square)
            size = _norm(correction)
            before, r = self._u.copy(), self._r.copy()
            self._u.axpy(1.0, correction)
            if self._relative(2 * theta * size) <= self._options.tolerance:
                self._count(size)
                return "estimated error below the tolerance"
            steps.append((correction, size**2))
            theta = math.inf
            if self._evaluate():
                correction = self._correction()
                for (previous, square), (step, _) in itertools.pairwise(steps):
                    correction.axpy(correction.inner(previous) / square, step)
                theta = _norm(correction) / size
            if theta > 0.5 and self._at_rounding(size):
                self._count(size)
                return "corrections at the level of rounding"
            if theta >= 1.0:
                _copy(before, self._u)
                self._r = r
                return None
            self._count(size)
            if theta > self._options.chord_threshold:
                return None

    def _evaluate(self) -> bool:
        """Assemble r at u; whether it is finite, on all ranks."""
        self._residuals += 1
        self._assemble(self._u, self._r)
        return math.isfinite(_norm(self._r))

    def _refresh(self) -> None:
        self._factorizations += 1
        self._linearize(self._u)

    def _correction(self) -> dl.GenericVector:
        out = self._r.copy()
        try:
            self._correct(out, self._r)
        except SolveError as error:
            raise self._error(str(error)) from error
        out *= -1.0
        if not math.isfinite(_norm(out)):
            raise self._error("a correction is not finite; the matrix may be singular")
        return out

    def _relative(self, size: float) -> float:
        scale = max(_norm(self._u), self._start)  # of a solution that is zero, the guess
        return size / scale if scale > 0.0 else math.inf if size > 0.0 else 0.0

    def _at_rounding(self, size: float) -> bool:
        return self._relative(size) <= self.ROUNDING

    def _count(self, size: float) -> None:
        self._iterations += 1
        self._size = self._relative(size)
        if self._iterations > self._options.max_iterations:
            raise self._error(f"more than {self._options.max_iterations} iterations")

    def _report(self, reason: str) -> SolveReport:
        return SolveReport(self._iterations, self._residuals, self._factorizations, reason, self._size)

    def _error(self, reason: str) -> ForwardSolveError:
        return ForwardSolveError(
            f"Newton's method stopped after {self._iterations} iterations (last correction {self._size:.1e}, "
            f"relative): {reason}.",
            self._report(reason),
        )


def _predicted(previous: tuple | None, delta: dl.GenericVector, size: float) -> float:
    """Damping that the step before makes likely to be accepted, at least a tenth."""
    if previous is None:
        return 1.0
    old_size, damping, simplified = previous
    change = simplified.copy()
    change.axpy(-1.0, delta)
    return min(1.0, max(0.1, damping * old_size * _norm(simplified) / max(_norm(change) * size, 1e-300)))


def _norm(vector: dl.GenericVector) -> float:
    return vector.norm("l2")


def _copy(source: dl.GenericVector, target: dl.GenericVector) -> None:
    target.zero()
    target.axpy(1.0, source)

"""Coverage of 95 % intervals of means, variances, probabilities, risks and gains, by simulation over laws and numbers.

Forward UQ: n pairs (q, s) with s = q + 0.3 σ(q) times noise, and 2000 further values of s.  Optimization: a risk of n
samples, without a surrogate and with one of that kind.  Design: n draws of a gain, whose interval that of a difference
of gains is too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import typer
from scipy import stats

from benchmarks.tables import processor, table
from hippylib_dino import ouu
from hippylib_dino.oed.criteria import mean_over_draws
from hippylib_dino.random_streams import stream
from hippylib_dino.uq.estimators import Exceedance, Mean, Statistic, Variance, estimate

SEED, CHEAP, NOISE = 20, 2000, 0.3
FEW, MANY = (4, 6, 10, 30, 100), (32, 64, 128, 256, 1024)


class Law(NamedTuple):
    """A law of the quantity of interest: draws, quantiles of its exact values, and a threshold in its tail."""

    draw: Callable[[np.random.Generator, int], np.ndarray]
    exact: np.ndarray
    threshold: float


def _of_quantiles(name: str, ppf: Callable[[np.ndarray], np.ndarray]) -> tuple[str, Law]:
    """A law by its quantile function, with nodes that refine to the upper end, where the moments are."""
    exact = ppf((np.arange(2_000_000) + 0.5) / 2_000_000)
    return name, Law(lambda rng, n: ppf(rng.uniform(size=n)), exact, float(np.quantile(exact, 0.9)))


def laws() -> dict[str, Law]:
    normal = stats.norm.ppf

    def two_modes(u: np.ndarray) -> np.ndarray:
        upper = u > 0.5
        return np.where(upper, 2.0, -2.0) + 0.5 * normal(np.clip(2 * u - upper, 1e-12, 1 - 1e-12))

    return dict(
        [
            _of_quantiles("Gaussian", normal),
            _of_quantiles("lognormal", lambda u: np.exp(normal(u))),
            _of_quantiles("Student, 5", lambda u: stats.t.ppf(u, 5)),
            _of_quantiles("two modes", two_modes),
            _of_quantiles("χ², 1", lambda u: normal(u) ** 2),
        ]
    )


class Given(ouu.Ensemble):
    """Samples of a quantity that does not depend on its control."""

    def __init__(self, q: np.ndarray):
        self.q, self.n, self.n_control = q, len(q), 1

    def quantity(self, z: np.ndarray) -> np.ndarray:
        return self.q

    def quantity_and_jacobian(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.q, np.ones((self.n, 1))

    def hessian_actions(self, z: np.ndarray, direction: np.ndarray) -> np.ndarray:
        return np.zeros((self.n, 1))


Interval = tuple[float, float]
Find = Callable[[Law, np.random.Generator, int], Interval]


def pairs(law: Law, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantity and surrogate (n + CHEAP,)."""
    q = law.draw(rng, n + CHEAP)
    return q, q + NOISE * law.exact.std() * rng.standard_normal(len(q))


def by_uq(statistic: Statistic) -> Find:
    def found(law: Law, rng: np.random.Generator, n: int) -> Interval:
        q, s = pairs(law, rng, n)
        return estimate(statistic, q[:n], s[:n], s[n:]).interval

    return found


def by_ouu(risk: ouu.RiskMeasure, *, surrogate: bool) -> Find:
    def found(law: Law, rng: np.random.Generator, n: int) -> Interval:
        q, s = pairs(law, rng, n)
        twins = {"paired": Given(s[:n]), "cheap": Given(s[n:])} if surrogate else {}
        objective = ouu.Objective(Given(q[:n]), risk)
        low, high = ouu.assess(objective, np.zeros(1), n_bootstrap=30 if surrogate else 2, **twins).risk.interval
        return float(low), float(high)

    return found


def by_oed(law: Law, rng: np.random.Generator, n: int) -> Interval:
    return mean_over_draws(law.draw(rng, n)).interval


def cell(law: Law, find: Find, truth: float, n: int, times: int) -> str:
    """Coverage, and median width over the standard deviation of the quantity, of the intervals that there are."""
    ends = np.array([find(law, stream((SEED, n), k), n) for k in range(times)])
    ends = ends[np.isfinite(ends).all(axis=1)]
    if not len(ends):
        return "none"
    covered = np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
    width = np.median(ends[:, 1] - ends[:, 0]) / law.exact.std()
    missing = "" if len(ends) == times else f", none in {1 - len(ends) / times:.0%}"
    return f"{covered:.0%}, {width:.2g}{missing}"


def error(times: int) -> float:
    """Standard error in percent of a coverage of 95 %."""
    return 100 * (0.95 * 0.05 / times) ** 0.5


RISKS = {
    "mean": ouu.Expectation(),
    "mean + variance": ouu.MeanVariance(1.0),
    "CVaR 0.8": ouu.CVaR(0.8),
    "CVaR 0.95": ouu.CVaR(0.95),
    "worst case": ouu.WorstCase(),
}


def few_samples(law: Law) -> dict[str, tuple[Find, float]]:
    """Intervals of forward UQ and of designs, with the truth."""
    return {
        "uq, mean": (by_uq(Mean()), law.exact.mean()),
        "uq, variance": (by_uq(Variance()), law.exact.var()),
        "uq, P = 0.1": (by_uq(Exceedance(law.threshold)), 0.1),
        "oed, gain or difference": (by_oed, law.exact.mean()),
    }


def many_samples(law: Law) -> dict[str, tuple[Find, float]]:
    """Intervals of risks, with the truth."""
    asked = {f"ouu, {label}": (risk, False) for label, risk in RISKS.items()}
    asked |= {f"ouu, {label}, surrogate": (RISKS[label], True) for label in ("mean + variance", "CVaR 0.95")}
    return {label: (by_ouu(risk, surrogate=s), risk.value(law.exact)) for label, (risk, s) in asked.items()}


PARTS = {"few": (few_samples, FEW), "many": (many_samples, MANY)}


def report(part: str, repeats: int) -> str:
    begun = time.perf_counter()
    asked, numbers = PARTS[part]
    rows = []
    for name, law in laws().items():
        for label, (find, truth) in asked(law).items():
            rows.append([label, name, *(cell(law, find, truth, n, repeats) for n in numbers)])
            print(*rows[-1], sep=" | ", flush=True)
    return f"""# Coverage of 95 % intervals, {part} samples

Machine: {processor()}, one thread.
Command: `OMP_NUM_THREADS=1 python -m benchmarks.coverage {part} --repeats {repeats}`, \
{time.perf_counter() - begun:.0f} s at a load average of {os.getloadavg()[0]:.1f}.

Each entry: share of the intervals that hold the truth, and their median width over the standard deviation of the
quantity. "none": no interval is given, for the reason that the estimate states.  {repeats} repetitions, so that a
coverage of 95 % is seen as 95 ± {error(repeats):.1f} %.

{table(["interval", "law", *(f"n = {n}" for n in numbers)], rows)}
"""


def main(part: str, repeats: int = 200, output: Path | None = None) -> None:
    """Write the table of "few" samples, forward UQ and designs, or of "many", risks."""
    name = {"few": "coverage.md", "many": "coverage_risks.md"}[part]
    (output or Path(__file__).parent / "results" / name).write_text(report(part, repeats))


if __name__ == "__main__":
    typer.run(main)

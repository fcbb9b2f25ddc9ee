"""The PDE's verdict on designs that a surrogate chose: values, rank correlation, the design against its rivals."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from hippylib_dino.errors import InputError
from hippylib_dino.intervals import shown
from hippylib_dino.oed.criteria import Criterion, Estimate, mean_over_draws
from hippylib_dino.oed.pde import PDECriteria

NAN = float("nan")


@dataclass(frozen=True)
class Assessment:
    """A criterion of some designs by surrogate and by PDE, on the same draws.

    Attributes
    ----------
    criterion : str
    designs : list of tuple
    surrogate : list of Estimate
    pde : list of Estimate
        Means over the draws that did not fail; their intervals are those of the PDE's criterion.
    differences : list of Estimate
        Surrogate less PDE, draw by draw.
    rivals : list of Estimate
        What the first design gains over each, by the PDE, draw by draw; 0 for itself.
    rank_correlation : float
        Spearman's, of surrogate and PDE over the designs; NaN for fewer than three.
    relative_error : float
        Mean over the designs of |surrogate - PDE|/PDE.
    seconds : float
        Mean of one (design, draw) pair with the PDE.
    failures : dict of (design, draw) to str
        Of the PDE, and why.
    """

    criterion: str
    designs: list[tuple[int, ...]]
    surrogate: list[Estimate]
    pde: list[Estimate]
    differences: list[Estimate]
    rivals: list[Estimate]
    rank_correlation: float
    relative_error: float
    seconds: float
    failures: dict[tuple[tuple[int, ...], int], str]

    @property
    def n_worse(self) -> int:
        """How many of the other designs the PDE finds worse than the first, on the mean over the draws."""
        return sum(rival.value > 0 for rival in self.rivals[1:])

    def __str__(self) -> str:
        table = Table(title=f"{self.criterion} by surrogate and by PDE", title_justify="left")
        for heading in ("design", "surrogate", "PDE", "interval", "first less this", "interval"):
            table.add_column(heading, justify="left" if heading == "design" else "right")
        for design, s, p, r in zip(self.designs, self.surrogate, self.pde, self.rivals, strict=True):
            ends = [shown(e.interval, e.reason, 4).replace("[", r"\[") for e in (p, r)]
            table.add_row(str(list(design)), f"{s.value:.4g}", f"{p.value:.4g}", ends[0], f"{r.value:.3g}", ends[1])
        text = io.StringIO()
        Console(file=text, width=120).print(table)
        draws = self.pde[0].n_draws + self.pde[0].n_failed
        correlation = f"rank correlation {self.rank_correlation:.3f}, " if len(self.designs) > 2 else ""
        lines = [
            text.getvalue().rstrip(),
            f"{correlation}mean relative error {self.relative_error:.2%}",
            f"the first design beats {self.n_worse} of {len(self.designs) - 1} others by the PDE",
            f"{draws} draws a design; a pair takes the PDE {self.seconds:.2f} s; {len(self.failures)} pairs failed",
        ]
        return "\n".join(lines)


def assess(
    criterion: Criterion,
    pde: PDECriteria,
    designs: Sequence[Iterable[int]],
    *,
    confidence: float = 0.95,
    progress: bool = False,
) -> Assessment:
    """Evaluate designs, the chosen one first, by surrogate and PDE on the PDE's draws of parameters and noise.

    Each has its own data: the PDE observes the full parameter, the surrogate what it makes of its latent coordinates.
    So the difference holds all errors: of the network, of the bases, of the Laplace approximation's Jacobians.

    Parameters
    ----------
    criterion : Criterion
        With the groups of `pde`; `ATrace` in the mass norm (`mass_gram`), `GoalVariance` with the goals of `pde`.
    pde : PDECriteria
        Keeps what it solved: further criteria of the same designs cost nothing.
    designs : designs
    confidence : float
    progress : bool
        Show a bar.

    Returns
    -------
    Assessment

    Raises
    ------
    InputError
        If a design is empty, a sensor unknown, or the two have different candidates.
    SolveError
        If too many draws fail.
    """
    if not len(designs):
        raise InputError("designs: expected at least one design, got none.")
    groups = criterion.experiment.groups
    if len(groups) != len(pde.groups) or not all(map(np.array_equal, groups, pde.groups)):
        raise InputError("criterion, pde: expected the same groups of observables as candidates, got different ones.")
    result = pde.evaluate(designs, progress=progress)
    same = criterion.with_draws(pde.draws(criterion.dino.input_basis))
    # of the same draws, the control variate is that of both
    control = np.array([same.control(design) for design in result.designs])
    by_surrogate = np.array([same.samples(design) for design in result.designs]) - control
    by_pde = getattr(result, criterion.name) - control
    if not np.isfinite(by_pde).any():
        raise InputError("pde: has no goals; make PDECriteria(model, goals=...) to assess a GoalVariance.")
    estimate = lambda rows: [mean_over_draws(row, confidence) for row in rows]  # noqa: E731
    surrogate, truth = estimate(by_surrogate), estimate(by_pde)
    a, b = (np.array([e.value for e in estimates]) for estimates in (surrogate, truth))
    return Assessment(
        criterion=criterion.name.replace("_", " "),
        designs=result.designs,
        surrogate=surrogate,
        pde=truth,
        differences=estimate(by_surrogate - by_pde),
        rivals=estimate(by_pde[0] - by_pde),
        rank_correlation=float(spearmanr(a, b).statistic) if len(a) > 2 else NAN,
        relative_error=float(np.mean(np.abs(a - b) / np.abs(b))),
        seconds=float(np.nanmean(result.seconds)),
        failures=result.failures,
    )

"""How much chains are worth: effective samples, R-hat, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from hippylib_dino.errors import InputError, LibraryError

if TYPE_CHECKING:
    from hippylib_dino.mcmc.chains import Chains


def arviz() -> ModuleType:
    """ArviZ, an optional library.

    Raises
    ------
    LibraryError
        If it is missing.
    """
    try:
        import arviz
    except ModuleNotFoundError as error:
        raise LibraryError(
            f"arviz: cannot be imported, {error.name!r} is missing. Install it: pip install 'hippylib_dino[mcmc]'."
        ) from error
    return arviz


@dataclass(frozen=True)
class Efficiency:
    """What chains are worth.

    Attributes
    ----------
    effective_samples : dict of str to ndarray, (...)
        Of each quantity's mean, over all chains (`arviz.ess`).
    r_hat : dict of str to ndarray, (...)
        Rank-normalised split R-hat (`arviz.rhat`); above 1.01 the chains have not met.
    least, median : float
        Over all components of all quantities, of the effective samples.
    solves : int
        Forward solves after burn-in, over all chains.
    seconds : float
        After burn-in, summed over the chains.
    acceptance : float
        Share of steps that moved.
    square_jump : float
        Mean of ‖m_k - m_{k-1}‖²_M over the steps.
    """

    effective_samples: dict[str, np.ndarray]
    r_hat: dict[str, np.ndarray]
    least: float
    median: float
    solves: int
    seconds: float
    acceptance: float
    square_jump: float

    @property
    def worst_r_hat(self) -> float:
        """The largest R-hat."""
        return float(max(np.max(values) for values in self.r_hat.values()))

    def per_solve(self, of: str = "median") -> float:
        """Effective samples a forward solve; `of` is "median" or "least".  NaN where nothing was solved."""
        return getattr(self, of) / self.solves if self.solves else float("nan")

    def per_second(self, of: str = "median") -> float:
        """Effective samples a second; `of` is "median" or "least"."""
        return getattr(self, of) / self.seconds

    def __str__(self) -> str:
        return (
            f"effective samples {self.least:.0f} (least), {self.median:.0f} (median), of these {self.per_solve():.3g} "
            f"per solve and {self.per_second():.3g} per second; R-hat <= {self.worst_r_hat:.3f}; "
            f"acceptance {self.acceptance:.1%}; {self.solves} solves in {self.seconds:.1f} s"
        )


def efficiency(chains: Chains) -> Efficiency:
    """Effective samples, R-hat, acceptance and cost of chains.

    Parameters
    ----------
    chains : Chains

    Raises
    ------
    InputError
        If the chains have fewer than four samples.
    LibraryError
        If ArviZ is missing.
    """
    n_samples = chains.statistics["cost"].shape[1]
    if n_samples < 4:
        raise InputError(f"chains: expected at least 4 samples of each, got {n_samples}.")
    library = arviz()
    data = library.convert_to_dataset(chains.quantities)
    ess, r_hat = library.ess(data, method="mean"), library.rhat(data)
    effective = {str(name): np.asarray(ess[name].values) for name in ess.data_vars}
    every = np.concatenate([values.ravel() for values in effective.values()])
    return Efficiency(
        effective_samples=effective,
        r_hat={str(name): np.asarray(r_hat[name].values) for name in r_hat.data_vars},
        least=float(every.min()),
        median=float(np.median(every)),
        solves=int(chains.statistics["solves"][:, -1].sum()),
        seconds=float(chains.statistics["seconds"][:, -1].sum()),
        acceptance=float(chains.statistics["moved"].mean()),
        square_jump=float(chains.statistics["square_jump"].mean()),
    )

"""How much chains are worth: effective samples, R-hat, and what they cost."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from hippylib_dino.errors import ChainWarning, InputError, LibraryError
from hippylib_dino.mcmc.stays import account, most_effective_samples

if TYPE_CHECKING:
    from hippylib_dino.mcmc.chains import Chains

ROUNDING = 1e-12  # of a quantity, relative to its largest value: what varies less is constant
REMEDY = (
    "They say next to nothing about the posterior. Start chains where it has its mass (by default that is the "
    "surrogate's Laplace approximation; for other kernels pass starts=hd.laplace(surrogate, solution)), with a step "
    "that was tuned there (kernel.tune()) or a shorter one. Where it is the PDE that rejects (chains.counts), train a "
    "better surrogate."
)


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
        Of each quantity's mean, over all chains (`arviz.ess`), and no more than the stays of the chains allow: one of a
        chain that never moved.  NaN for what is constant in chains that moved.
    r_hat : dict of str to ndarray, (...)
        Rank-normalised split R-hat (`arviz.rhat`); above 1.01 the chains have not met.  Infinite where a quantity
        varies in no chain, for want of moves or only from chain to chain; NaN for one chain, and for what is constant
        in chains that moved.
    least, median : float
        Over all components of all quantities that are not constant, of the effective samples.
    solves : int
        Forward solves after burn-in, over all chains.
    seconds : float
        After burn-in, summed over the chains.
    acceptance : float
        Share of steps that moved, over all chains.
    square_jump : float
        Mean of ‖m_k - m_{k-1}‖²_M over the steps of all chains.
    worst_r_hat : float
        The largest R-hat of what is not constant.
    acceptances, square_jumps : ndarray, (n_chains,)
        The same of each chain.
    stuck : str
        Which chains never moved or stood still for long, by number; empty if none.
    starts : str
        Where the chains were started; empty if that is not known.
    """

    effective_samples: dict[str, np.ndarray]
    r_hat: dict[str, np.ndarray]
    least: float
    median: float
    solves: int
    seconds: float
    acceptance: float
    square_jump: float
    worst_r_hat: float
    acceptances: np.ndarray
    square_jumps: np.ndarray
    stuck: str
    starts: str

    def per_solve(self, of: str = "median") -> float:
        """Effective samples a forward solve; `of` is "median" or "least".  NaN where nothing was solved."""
        return getattr(self, of) / self.solves if self.solves else float("nan")

    def per_second(self, of: str = "median") -> float:
        """Effective samples a second; `of` is "median" or "least"."""
        return getattr(self, of) / self.seconds

    def __str__(self) -> str:
        spread = " / ".join(f"{f(self.acceptances):.1%}" for f in (np.min, np.median, np.max))
        return (
            f"effective samples {self.least:.0f} (least), {self.median:.0f} (median), of these {self.per_solve():.3g} "
            f"per solve and {self.per_second():.3g} per second; R-hat <= {self.worst_r_hat:.3f}; "
            f"acceptance {spread} (least, median, most of the chains); {self.solves} solves in {self.seconds:.1f} s"
            + (f"; started from {self.starts}" if self.starts else "")
            + (f"; {self.stuck}" if self.stuck else "")
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

    Warns
    -----
    ChainWarning
        If chains never moved, or stood at one point for a quarter of their steps.
    """
    moved = chains.statistics["moved"]
    if moved.shape[1] < 4:
        raise InputError(f"chains: expected at least 4 samples of each, got {moved.shape[1]}.")
    stuck = warn_of_stuck(moved)
    ess, r_hat, constant = {}, {}, {}
    for name, values in chains.quantities.items():
        ess[name], r_hat[name], constant[name] = _worth(values, moved)
    effective, ratios = (
        np.concatenate([part[name][~constant[name]] for name in part], axis=None) for part in (ess, r_hat)
    )
    return Efficiency(
        effective_samples=ess,
        r_hat=r_hat,
        least=float(effective.min()) if effective.size else np.nan,
        median=float(np.median(effective)) if effective.size else np.nan,
        solves=int(chains.statistics["solves"][:, -1].sum()),
        seconds=float(chains.statistics["seconds"][:, -1].sum()),
        acceptance=float(moved.mean()),
        square_jump=float(chains.statistics["square_jump"].mean()),
        worst_r_hat=float(ratios.max()) if ratios.size else np.nan,
        acceptances=moved.mean(axis=1),
        square_jumps=chains.statistics["square_jump"].mean(axis=1),
        stuck=stuck,
        starts=str(chains.settings.get("starts", "")),
    )


def warn_of_stuck(moved: np.ndarray) -> str:
    """Warn of chains (n_chains, n_samples) that never moved or stood still for long, if any; return which.

    Warns
    -----
    ChainWarning
    """
    stuck = account(moved)
    if stuck:
        warnings.warn(f"chains: {stuck}. {REMEDY}", ChainWarning, stacklevel=3)
    return stuck


def _worth(values: np.ndarray, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effective samples, R-hat, and what is constant by construction, each (...), of a quantity.

    Parameters
    ----------
    values : (n_chains, n_samples, ...)
    moved : (n_chains, n_samples)
    """
    library = arviz()
    data = library.convert_to_dataset({"q": values})
    with np.errstate(divide="ignore", invalid="ignore"):  # of what does not vary, seen below
        ess, r_hat = (np.asarray(f["q"].values) for f in (library.ess(data, method="mean"), library.rhat(data)))
    floor = ROUNDING * np.abs(values).max(axis=(0, 1))
    still = np.ptp(values, axis=1) <= floor  # in each chain
    constant = (np.ptp(values, axis=(0, 1)) <= floor) & moved[:, 1:].any()
    most = np.array([most_effective_samples(chain) for chain in moved])
    bound = np.where(still, 1.0, most.reshape(-1, *[1] * (values.ndim - 2))).sum(axis=0)
    ess = np.where(constant, np.nan, np.minimum(ess, bound))
    return ess, np.where(constant, np.nan, np.where(still.all(axis=0), np.inf, r_hat)), constant

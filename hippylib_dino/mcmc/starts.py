"""Where chains start: draws of a Laplace approximation where there is one, of the prior, or what the user gives.

A draw of the prior has a misfit that is larger than the posterior's by orders of magnitude.  From there a proposal
whose length is right for the posterior, or a surrogate whose error there is of the same order, leaves chains that never
move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import dolfin as dl
import hippylib as hp

from hippylib_dino.data.streams import draw_parameter, draw_posterior
from hippylib_dino.errors import InputError
from hippylib_dino.mcmc.kernels import DelayedAcceptance, LatentKernel
from hippylib_dino.mcmc.proposals import Laplace
from hippylib_dino.random_streams import Purpose, generator, seed_of

Starts: TypeAlias = Sequence[dl.GenericVector] | hp.GaussianLRPosterior | Literal["prior"] | None


def check_starts(starts: Starts, n_chains: int) -> None:
    """Raise `InputError` if `starts` is none of these, or not one parameter for each chain."""
    if isinstance(starts, str) and starts != "prior":
        raise InputError(f'starts: expected parameters, an hp.GaussianLRPosterior, "prior" or None, got {starts!r}.')
    if isinstance(starts, hp.GaussianLRPosterior):
        if starts.mean is None:
            raise InputError("starts: this posterior has no mean; assign posterior.mean, as `hd.laplace` does.")
    elif starts is not None and starts != "prior" and len(starts) != n_chains:
        raise InputError(f"starts: expected {n_chains} parameters, one for each chain, got {len(starts)}.")


def choose_starts(kernel, starts: Starts, seed: int) -> tuple[str, Callable[[int], dl.GenericVector]]:
    """Where chains start, in words, and the function that gives the start of chain c.

    Parameters
    ----------
    kernel : kernel of `hd.mcmc` or of `hp.mcmc`
    starts : sequence of dolfin vectors, hp.GaussianLRPosterior, "prior", or None
        As in `run_chains`.
    seed : int
        Of the draws.

    Raises
    ------
    SolveError
        If the kernel's surrogate has no finite answer.
    """
    if starts is None and isinstance(kernel, DelayedAcceptance):
        law = kernel.laplace()
        said = "the surrogate's Laplace approximation"
        return said, lambda c: kernel.parameter(law, generator(Purpose.LAPLACE_START, seed, c))
    posterior = _posterior_of(kernel) if starts is None else starts
    if isinstance(posterior, hp.GaussianLRPosterior):
        said = "the Laplace approximation of its proposals" if starts is None else "a Gaussian posterior that was given"
        of_posterior = seed_of(Purpose.LAPLACE_START, seed)
        return said, lambda c: draw_posterior(posterior, of_posterior, c)
    if starts is None or isinstance(starts, str):
        of_prior = seed_of(Purpose.CHAIN_START, seed)
        return "the prior", lambda c: draw_parameter(kernel.model.prior, of_prior, c)
    return "points that were given", lambda c: starts[c]


def _posterior_of(kernel) -> hp.GaussianLRPosterior | None:
    """The Gaussian that the proposals of a kernel are reversible for, where it is not the prior."""
    if isinstance(kernel, LatentKernel):
        return kernel.proposal.posterior if isinstance(kernel.proposal, Laplace) else None
    return kernel.nu if isinstance(kernel, hp.mcmc.kernels.gpCNKernel) else None

"""Laplace approximation of the posterior, for PDE and surrogate alike."""

from __future__ import annotations

import hippylib as hp
import numpy as np

from hippylib_dino.errors import InputError
from hippylib_dino.modeling.observation import members_of
from hippylib_dino.surrogate.model import SurrogateModel

ROUNDING = 1e-12  # of an eigenvalue, relative to the largest


def laplace(
    model: hp.Model,
    solution: list,
    *,
    rank: int | None = None,
    oversampling: int = 20,
    gauss_newton_approx: bool = True,
    seed: int = 1,
) -> hp.GaussianLRPosterior:
    """Low-rank Laplace approximation at a MAP point, by hIPPYlib's randomized `doublePassG`.

    Parameters
    ----------
    model : hp.Model
        PDE or surrogate.
    solution : [u, m, p]
        What `hp.ReducedSpaceNewtonCG(model).solve` returned.
    rank : int, optional
        Eigenpairs of (H_misfit, R) to keep; default what observables, and latent dimensions of a surrogate, can give,
        at most 100.  Fewer are kept where the Hessian has a smaller rank: beyond it eigenvalues are rounding alone.
    oversampling : int
        Additional random directions.
    gauss_newton_approx : bool
        True (default) keeps every eigenvalue nonnegative; False uses the full Hessian.
    seed : int
        Of the random directions.

    Returns
    -------
    hp.GaussianLRPosterior
        Its mean is a copy of the MAP point.

    Raises
    ------
    InputError
        If `rank` exceeds the parameter dimension.

    References
    ----------
    Villa, Petra, Ghattas, "hIPPYlib", ACM Trans. Math. Softw. 47 (2021), section on the low-rank Laplace approximation.
    """
    m = solution[hp.PARAMETER]
    if rank is not None and not 1 <= rank <= m.size():
        raise InputError(f"rank: expected 1 .. {m.size()}, the parameter dimension, got {rank}.")
    rank = _default_rank(model) if rank is None else rank
    model.setPointForHessianEvaluations(solution, gauss_newton_approx=gauss_newton_approx)
    hessian = hp.ReducedHessian(model, misfit_only=True)
    size = min(rank + oversampling, m.size())
    directions = hp.MultiVector(m, size)
    comm = m.mpi_comm()
    hp.Random(comm.rank, comm.size, 1_000_000, seed).normal(1.0, directions)
    eigenvalues, vectors = hp.doublePassG(hessian, model.prior.R, model.prior.Rsolver, directions, rank, s=1)
    kept = max(int((np.abs(eigenvalues) > ROUNDING * np.abs(eigenvalues).max()).sum()), 1)
    if kept < rank:  # they come by size
        leading = hp.MultiVector(m, kept)
        for j in range(kept):
            leading[j].zero()
            leading[j].axpy(1.0, vectors[j])
        eigenvalues, vectors = eigenvalues[:kept], leading
    posterior = hp.GaussianLRPosterior(model.prior, eigenvalues, vectors)
    posterior.mean = m.copy()
    return posterior


def _default_rank(model: hp.Model) -> int:
    """What bounds the rank of the Gauss-Newton Hessian: observables, latent dimensions of a surrogate; at most 100."""
    limits = [100, model.prior.mean.size()]
    members = members_of(model.misfit)
    if all(hasattr(member, "B") for member in members):
        limits.append(sum(member.B.size(0) for member in members))
    if isinstance(model, SurrogateModel):
        limits += [model.dino.input_basis.rank, model.dino.output_basis.rank]
    return min(limits)

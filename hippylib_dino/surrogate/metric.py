"""The surrogate's Hessian at a point as a metric: its Laplace covariance, exact, from latent algebra."""

from __future__ import annotations

from typing import Any

import dolfin as dl
import hippylib as hp
import numpy as np
from hippylib.utils.warnings import ModelConvergenceError

from hippylib_dino.errors import InputError
from hippylib_dino.modeling.fingerprint import check_fingerprint, fingerprint
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.observation import has_gaussian_noise, members_of, noise_covariance
from hippylib_dino.modeling.spaces import (
    DofOrder,
    check_vector,
    map_block,
    owned_values,
    set_owned_values,
    sum_over_ranks,
)
from hippylib_dino.surrogate.model import SurrogateModel

SMALLEST = -0.9  # of the eigenvalues of a full Hessian relative to the prior's, so that it stays a metric


def latent_posterior(
    surrogate: SurrogateModel, m: dl.GenericVector, *, gauss_newton_approx: bool = True
) -> hp.GaussianLRPosterior:
    """N(m, H⁻¹), H = R + Ĥ the surrogate's Hessian at any m, without random directions.

    With G = Ψᵀ Ĥ Ψ = V Λ Vᵀ, (rM x rM), and Ĥ = RΨ G (RΨ)ᵀ the eigenpairs of (Ĥ, R) are (λ, ΨV) to rounding, so that
    H⁻¹ = R⁻¹ - ΨV Λ(I + Λ)⁻¹ (ΨV)ᵀ costs one solve with the prior and products with Ψ.

    Parameters
    ----------
    surrogate : SurrogateModel
    m : dolfin vector, (dM,), primal
        The linearisation point, a stationary one or not.
    gauss_newton_approx : bool
        False for the full Hessian, whose eigenvalues below -0.9 are raised to it.

    Returns
    -------
    hp.GaussianLRPosterior
        Of rank rM, eigenvalues descending, mean a copy of `m`; ``Hlr.solve`` is H⁻¹ and ``Hlr.mult`` is H.

    Raises
    ------
    InputError
        If the latent parameters are not white under the prior (a learned encoder).
    hippylib.utils.warnings.ModelConvergenceError
        If the network's answer at `m` is not finite.
    """
    basis = surrogate.dino.input_basis
    if basis.inner_product != "prior precision":
        raise InputError(
            f"surrogate: expected an input basis that is orthonormal in the prior precision, got a {basis.kind} one. "
            "Train a DINO on reduced samples."
        )
    x = surrogate.generate_vector()
    x[hp.PARAMETER].axpy(1.0, m)
    surrogate.solveFwd(x[hp.STATE], x)
    surrogate.solveAdj(x[hp.ADJOINT], x)
    surrogate.setPointForHessianEvaluations(x, gauss_newton_approx=gauss_newton_approx)
    decoder = DofOrder(surrogate.prior.Vh).from_array(basis.decoder)
    hessian = hp.ReducedHessian(surrogate, misfit_only=True)
    direction, image = x[hp.PARAMETER], surrogate.generate_vector(hp.PARAMETER)
    columns = np.empty_like(decoder)
    for j in range(basis.rank):
        set_owned_values(direction, decoder[:, j])
        hessian.mult(direction, image)
        columns[:, j] = owned_values(image)
    latent = sum_over_ranks(decoder.T @ columns, m.mpi_comm())
    if not np.isfinite(latent).all():
        raise ModelConvergenceError("the surrogate's Hessian has entries that are not finite.")
    eigenvalues, vectors = np.linalg.eigh(0.5 * (latent + latent.T))
    return gaussian(surrogate.prior, np.maximum(eigenvalues[::-1], SMALLEST), decoder @ vectors[:, ::-1], m)


def gaussian(prior, eigenvalues: np.ndarray, vectors: np.ndarray, mean: dl.GenericVector) -> hp.GaussianLRPosterior:
    """hIPPYlib's low-rank posterior of eigenvalues (r,) and this rank's rows of R-orthonormal vectors (n_owned, r)."""
    U = hp.MultiVector(mean, vectors.shape[1])
    for j in range(vectors.shape[1]):
        set_owned_values(U[j], vectors[:, j])
    posterior = hp.GaussianLRPosterior(prior, eigenvalues, U)
    posterior.mean = mean.copy()
    return posterior


def dual_norm(solver, g: dl.GenericVector) -> float:
    """√(gᵀ A⁻¹ g) of a dual vector, for a solver of A."""
    z = g.copy()
    solver.solve(z, g)
    return float(np.sqrt(max(g.inner(z), 0.0)))


def check_kinds(surrogate: SurrogateModel, model: JacobianModel) -> None:
    """Raise `InputError` unless these are a surrogate and the model of a PDE."""
    for name, value, kind in (("surrogate", surrogate, SurrogateModel), ("model", model, JacobianModel)):
        if not isinstance(value, kind):
            raise InputError(
                f"{name}: expected an hd.{kind.__name__}, got {type(value).__name__}. "
                "The arguments are (surrogate, PDE model, solution)."
            )


def parameter_to_judge(surrogate: SurrogateModel, model: JacobianModel, x) -> dl.GenericVector:
    """The parameter of `x`, once surrogate and PDE are known to speak of one inverse problem.

    Raises
    ------
    InputError, VectorError, FingerprintError
        Naming the argument that does not fit.
    """
    check_kinds(surrogate, model)
    if isinstance(x, (list, tuple)):
        if len(x) < 2:
            raise InputError(f"x: expected [u, m, p] or a parameter vector, got a list of {len(x)}.")
        x = x[hp.PARAMETER]
    if not isinstance(x, dl.GenericVector):
        raise InputError(f"x: expected [u, m, p] or a dolfin vector of parameters, got {type(x).__name__}.")
    check_vector(x, model.prior.mean, "x")
    check_fingerprint(surrogate.dino.fingerprint, fingerprint(model), "surrogate: its DINO")
    _check_same_data(surrogate, model)
    return x


def _check_same_data(surrogate: SurrogateModel, model: JacobianModel) -> None:
    here, there = model.misfit, getattr(surrogate.misfit, "misfit", surrogate.misfit)
    if here is there:
        return
    pairs = list(zip(members_of(here), members_of(there), strict=False))
    if len(members_of(here)) == len(members_of(there)) and all(_same_noise(*pair) for pair in pairs):
        gaps = sum(float(((owned_values(a.d) - owned_values(b.d)) ** 2).sum()) for a, b in pairs)
        if sum_over_ranks(np.array(gaps), pairs[0][0].d.mpi_comm()) == 0.0:
            return
    raise InputError(
        "surrogate, model: expected one data vector and one noise covariance, got different ones. "
        "Make the surrogate with the PDE's misfit: hd.SurrogateModel(dino, model.prior, model.misfit)."
    )


def _same_noise(a: hp.Misfit, b: hp.Misfit) -> bool:
    """Whether two misfits, of which the fingerprint says that they observe the same, have the same cost."""
    if a is b:
        return True
    if not all(hasattr(misfit, "B") for misfit in (a, b)):
        return False
    if has_gaussian_noise(a) and has_gaussian_noise(b):
        return np.array_equal(noise_covariance(a).to_dense(), noise_covariance(b).to_dense())
    return type(a) is type(b) and _settings(a) == _settings(b)


def _settings(misfit: hp.Misfit) -> dict[str, Any]:
    """The numbers among a misfit's attributes."""
    plain = {name: value for name, value in vars(misfit).items() if isinstance(value, (int, float, np.ndarray))}
    return {name: np.asarray(value).tolist() for name, value in plain.items()}


def owned_rows(like: dl.GenericVector, local: np.ndarray) -> np.ndarray:
    """What this rank owns of `DataSpace`'s local rows, for the layout of a surrogate's state."""
    return local if len(local) == like.local_size() else local[slice(*like.local_range())]


def observed_inner(
    surrogate: SurrogateModel, m: dl.GenericVector, observable: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Cᵀ W C with W the misfit's curvature at an observable, Γ⁻¹ for Gaussian noise.

    Parameters
    ----------
    surrogate : SurrogateModel
    m : dolfin vector, (dM,)
    observable : (n_local,)
        This rank's piece of it, see `DataSpace`.
    columns : (n_local, k)

    Returns
    -------
    ndarray, (k, k)
    """
    q = surrogate.generate_vector(hp.STATE)
    set_owned_values(q, owned_rows(q, observable))
    surrogate.misfit.setLinearizationPoint([q, m, None])
    owned = owned_rows(q, columns)
    weighted = map_block(lambda out, x: surrogate.misfit.apply_ij(hp.STATE, hp.STATE, x, out), q, q, owned)
    return sum_over_ranks(owned.T @ weighted, q.mpi_comm())

"""What a misfit says of the observable: its linear operator B, its data, its noise."""

from __future__ import annotations

import copy

import dolfin as dl
import hippylib as hp
import numpy as np
from mpi4py import MPI

from hippylib_dino.errors import MisfitError
from hippylib_dino.modeling.spaces import gather, owned_values, set_owned_values
from hippylib_dino.noise import NoiseCovariance


class CovarianceStateObservation(hp.Misfit):
    """½ (Bu - d)ᵀ Γ⁻¹ (Bu - d) with diagonal or dense noise covariance Γ.

    The extension of `hp.DiscreteStateObservation`, whose noise is one scalar variance.

    Parameters
    ----------
    B : dolfin matrix (dQ x dU)
        Observation operator, for instance from `hp.assemblePointwiseObservation`.
    data : dolfin vector, optional
        Observed data d; may be changed in place later.
    noise_covariance : float, (dQ,) or (dQ, dQ) array
        Γ; assign `misfit.noise_covariance` to change it.
    """

    def __init__(self, B, data=None, noise_covariance=None):
        self.B = B
        self.d = _data_vector(B) if data is None else data
        self.Bu = _data_vector(B)
        self._noise = None
        if noise_covariance is not None:
            self.noise_covariance = noise_covariance

    @property
    def noise_covariance(self) -> NoiseCovariance:
        """Γ.  Raises `MisfitError` while it is not set."""
        if self._noise is None:
            raise MisfitError("noise_covariance: not set; assign a variance, variances or a matrix to it.")
        return self._noise

    @noise_covariance.setter
    def noise_covariance(self, value) -> None:
        self._noise = value if isinstance(value, NoiseCovariance) else NoiseCovariance(value, self.d.size())

    def _weighted(self) -> dl.GenericVector:
        """Replace Bu by Γ⁻¹ Bu."""
        first, last = self.Bu.local_range()
        everything = gather(owned_values(self.Bu), self.Bu.mpi_comm())
        set_owned_values(self.Bu, self.noise_covariance.solve(everything)[first:last])
        return self.Bu

    def cost(self, x) -> float:
        self.B.mult(x[hp.STATE], self.Bu)
        self.Bu.axpy(-1.0, self.d)
        residual = self.Bu.copy()
        return 0.5 * residual.inner(self._weighted())

    def grad(self, i, x, out) -> None:
        out.zero()
        if i == hp.STATE:
            self.B.mult(x[hp.STATE], self.Bu)
            self.Bu.axpy(-1.0, self.d)
            self.B.transpmult(self._weighted(), out)

    def setLinearizationPoint(self, x, gauss_newton_approx=False) -> None:
        """The misfit is quadratic: its Hessian does not depend on the point."""

    def apply_ij(self, i, j, dir, out) -> None:
        out.zero()
        if i == hp.STATE and j == hp.STATE:
            self.B.mult(dir, self.Bu)
            self.B.transpmult(self._weighted(), out)


def _data_vector(B) -> dl.Vector:
    """A zero vector in the range of `B`."""
    vector = dl.Vector(B.mpi_comm())
    B.init_vector(vector, 0)
    vector.zero()
    return vector


def _plain(vector: dl.GenericVector) -> dl.Vector:
    """A copy without the local numbering of hIPPYlib's observation operator, in which `set_local` permutes entries.

    `hp.MultDiscreteStateObservation` writes by it: on several ranks its gradient would be wrong.
    """
    out = dl.Vector(vector.mpi_comm())
    out.init(vector.local_range())
    set_owned_values(out, owned_values(vector))
    return out


def observation_operator(misfit: hp.Misfit) -> dl.Matrix:
    """The misfit's linear observation operator B, (dQ x dU).

    Raises
    ------
    MisfitError
        If the misfit has none.
    """
    B = getattr(misfit, "B", None)
    if B is None:
        raise MisfitError(
            f"misfit: expected one with a linear observation operator `B`, got {type(misfit).__name__}. "
            "Use hp.DiscreteStateObservation(B), hp.MultDiscreteStateObservation(B) or "
            "hd.CovarianceStateObservation(B, noise_covariance=...)."
        )
    return B


def has_gaussian_noise(misfit: hp.Misfit) -> bool:
    """Whether a misfit says that its cost is ½ (Bu - d)ᵀ Γ⁻¹ (Bu - d).

    The costs of `hp.DiscreteStateObservation` and `CovarianceStateObservation` are.  A class with a cost of its own,
    derived from one of these or not, says so by an attribute ``noise_covariance`` of the object or of the class itself;
    one that it only inherits says nothing of the cost that took the place of the inherited one.
    """
    kind = type(misfit)
    author = misfit if "cost" in vars(misfit) else next(c for c in kind.__mro__ if "cost" in vars(c))
    if author in (hp.DiscreteStateObservation, CovarianceStateObservation):
        return True
    if "noise_covariance" in vars(misfit):
        return True
    sayer = next((c for c in kind.__mro__ if "noise_covariance" in vars(c)), None)
    return sayer is not None and author is not misfit and issubclass(sayer, author)


def noise_covariance(misfit: hp.Misfit) -> NoiseCovariance:
    """Γ of the Gaussian noise on B u, as the misfit states it now: for inference.

    Raises
    ------
    MisfitError
        If the noise is not Gaussian on observables B u, or Γ is missing or not positive.
    """
    name = type(misfit).__name__
    if isinstance(misfit, hp.ContinuousStateObservation):
        raise MisfitError(
            f"misfit: {name} observes the whole state, whose noise has no covariance of its values; its precision is "
            "that of model.data_space. Use observables B u, or infer by hIPPYlib on hd.SurrogateModel."
        )
    B = observation_operator(misfit)
    if not has_gaussian_noise(misfit):
        raise MisfitError(
            f"misfit: the noise of {name} is not Gaussian with a covariance that it states, as is needed here. Infer "
            "by hIPPYlib on hd.SurrogateModel, which takes any misfit; or, of Gaussian noise, correlated or not, use "
            "hd.CovarianceStateObservation(B, data, noise_covariance) or assign misfit.noise_covariance."
        )
    stated = misfit.noise_variance if _costs_by_variance(misfit) else misfit.noise_covariance
    if stated is None:
        raise MisfitError(
            "noise variance: not set; assign misfit.noise_variance = sigma**2 before generating data "
            "or solving the inverse problem."
        )
    return NoiseCovariance.of(stated, B.size(0))


def _costs_by_variance(misfit: hp.Misfit) -> bool:
    """Whether the cost is hIPPYlib's, with one variance."""
    return "cost" not in vars(misfit) and type(misfit).cost is hp.DiscreteStateObservation.cost


def weight_covariance(misfit: hp.Misfit) -> NoiseCovariance:
    """In whose standard deviations observables are counted by bases, training and errors, as the misfit says now.

    What the misfit has in an attribute ``weight_covariance``; else the covariance of Gaussian noise.  Of other noise
    that of an attribute ``noise_covariance`` or ``noise_variance``, taken as a scale; observables under the
    multiplicative noise of `hp.MultDiscreteStateObservation` count alike.

    Raises
    ------
    MisfitError
        If the misfit has none of these, or what it has is not positive.
    """
    B = observation_operator(misfit)
    stated = getattr(misfit, "weight_covariance", None)
    if stated is None and has_gaussian_noise(misfit):
        return noise_covariance(misfit)
    if stated is None and isinstance(misfit, hp.MultDiscreteStateObservation):
        stated = 1.0
    for name in ("noise_covariance", "noise_variance"):
        stated = getattr(misfit, name, None) if stated is None else stated
    if stated is None:
        raise MisfitError(
            f"misfit: {type(misfit).__name__} has no Gaussian noise whose standard deviations observables could be "
            "counted in. Assign misfit.weight_covariance: a variance (1.0 where all count alike), variances or a "
            "matrix. For Gaussian noise, correlated or not, use hd.CovarianceStateObservation(B, data, covariance)."
        )
    return NoiseCovariance.of(stated, B.size(0))


class Identity:
    """The observation operator of a state that is the observable itself."""

    def __init__(self, like: dl.GenericVector):
        self.like = like

    def mpi_comm(self) -> MPI.Comm:
        return self.like.mpi_comm()

    def init_vector(self, x, dim) -> None:
        x.init(self.like.local_range())

    def size(self, dim: int) -> int:
        return self.like.size()

    def mult(self, x, y) -> None:
        y.zero()
        y.axpy(1.0, x)

    transpmult = mult


class ObservableMisfit(hp.Misfit):
    """The user's misfit, acting on the observable q in place of the state: B becomes the identity.

    Data, noise and every other public attribute are read from the user's misfit at each call,
    because scripts change them in place; its work vectors are not shared.

    Raises
    ------
    MisfitError
        At each call, while the data have another length than the observable.
    """

    def __init__(self, misfit: hp.Misfit):
        self.B = Identity(_plain(_data_vector(observation_operator(misfit))))
        self.misfit = misfit
        self._twin = copy.copy(misfit)
        self._own = {"B"}
        for name, value in vars(misfit).items():
            if isinstance(value, dl.GenericVector) and name != "d":
                setattr(self._twin, name, _plain(value))
                self._own.add(name)
        self._twin.B = self.B

    def _current(self) -> hp.Misfit:
        d, like = self.misfit.d, self.B.like
        if (d.size(), d.local_size()) != (like.size(), like.local_size()):
            raise MisfitError(
                f"data: expected a vector of {like.size()} observables ({like.local_size()} on this rank), as the "
                f"operator B gives, got {d.size()} ({d.local_size()}). Write into misfit.d, or shape the new one by "
                "misfit.B.init_vector(d, 0)."
            )
        for name, value in vars(self.misfit).items():
            if name not in self._own:
                setattr(self._twin, name, _plain(value) if isinstance(value, dl.GenericVector) else value)
        return self._twin

    @property
    def d(self) -> dl.GenericVector:
        """The data of the user's misfit."""
        return self.misfit.d

    def cost(self, x) -> float:
        return self._current().cost(x)

    def grad(self, i, x, out) -> None:
        self._current().grad(i, x, out)

    def setLinearizationPoint(self, x, gauss_newton_approx=False) -> None:
        self._current().setLinearizationPoint(x, gauss_newton_approx)

    def apply_ij(self, i, j, dir, out) -> None:
        self._current().apply_ij(i, j, dir, out)


def observed_data(misfit: hp.Misfit) -> np.ndarray:
    """The data d (dQ,) as they are now, on every rank; of all times for an `hp.MisfitTD`."""
    return np.concatenate([gather(owned_values(member.d), member.d.mpi_comm()) for member in members_of(misfit)])


def members_of(misfit: hp.Misfit) -> list[hp.Misfit]:
    """The user's misfit, or those of an `hp.MisfitTD`, which a surrogate's misfit wraps."""
    own = getattr(misfit, "misfit", misfit)
    return list(own.misfits) if isinstance(own, hp.MisfitTD) else [own]

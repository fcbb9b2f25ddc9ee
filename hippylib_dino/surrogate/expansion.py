"""Taylor expansion of the PDE's map at the prior mean, as a DINO."""

from __future__ import annotations

from typing import Any

import hippylib as hp
import numpy as np
from tqdm import tqdm

from hippylib_dino.data.dataset import Dataset
from hippylib_dino.errors import InputError
from hippylib_dino.modeling.fingerprint import check_fingerprint, fingerprint
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.spaces import DofOrder, set_owned_values
from hippylib_dino.network.dino import DINO
from hippylib_dino.network.polynomial import Polynomial
from hippylib_dino.reduction.basis import Basis

STEP = 1e-3  # prior standard deviations: solves are good to some 1e-10, so that both errors are near 1e-6 or below


def taylor_expansion(
    model: JacobianModel, bases: Dataset | tuple[Basis, Basis], order: int = 1, *, progress: bool = True
) -> DINO:
    """f(x) = y(0) + ∂y(0) x (+ ½ ∂²y(0)[x, x]), y the PDE's latent observable, at the prior mean.

    The first order costs one PDE solve with its reduced Jacobian.  The second takes central differences of the reduced
    Jacobian along each latent parameter, 2 rM such solves more, and the symmetric part of what they give.
    On a partitioned mesh all its ranks call this together; each gets the same DINO.

    Parameters
    ----------
    model : JacobianModel
    bases : Dataset, or (input basis, output basis)
        Of a dataset, whose samples are not used; or bases around the prior mean.
    order : int
        1 or 2.
    progress : bool
        A bar over the solves of order 2, on rank 0 of the mesh.

    Returns
    -------
    DINO
        ``training["asymmetry"]`` of order 2 is ‖H - Hᵀ‖/‖H‖ of the differences before they were made symmetric: their
        relative error, to an order of magnitude.

    Raises
    ------
    InputError
        For another order, or an input basis whose shift is not the prior mean.
    FingerprintError
        If the dataset was generated for another problem.
    SolveError
        If a solve fails.

    Examples
    --------
    ::

        quadratic = hd.taylor_expansion(model, dataset, order=2)
        print(quadratic.evaluate(dataset)["observable"])
    """
    if order not in (1, 2):
        raise InputError(f"order: expected 1 or 2, got {order}.")
    here = fingerprint(model)
    if isinstance(bases, Dataset):
        check_fingerprint(bases.fingerprint, here, "bases: the dataset")
        here, bases = bases.fingerprint, (bases.input_basis, bases.output_basis)
    derivatives = _Derivatives(model, *bases)
    zero = np.zeros(bases[0].rank)
    value, jacobian = derivatives.at(zero)
    weights = [value, jacobian]
    record: dict[str, Any] = {"formulation": f"Taylor expansion of order {order}", "n_train": 0}
    if order == 2:
        hessian = np.empty((*jacobian.shape, len(zero)))
        quiet = not (progress and model.prior.mean.mpi_comm().rank == 0)
        for j in tqdm(range(len(zero)), desc="second derivatives", unit="direction", disable=quiet):
            step = np.zeros_like(zero)
            step[j] = STEP
            hessian[:, :, j] = (derivatives.at(step)[1] - derivatives.at(-step)[1]) / (2 * STEP)
        transposed = hessian.swapaxes(1, 2)
        size = np.linalg.norm(hessian)
        record["asymmetry"] = float(np.linalg.norm(hessian - transposed) / size) if size > 0 else 0.0
        weights.append(0.5 * (hessian + transposed))
    architecture = Polynomial(bases[0].rank, bases[1].rank, degree=order)
    return DINO(architecture, weights, *bases, fingerprint=here, training=record)


class _Derivatives:
    """Latent observable and reduced Jacobian of the PDE as functions of latent parameters.

    Parameters
    ----------
    model : JacobianModel
    input_basis, output_basis : Basis
    """

    def __init__(self, model: JacobianModel, input_basis: Basis, output_basis: Basis):
        self._model, self._data = model, model.data_space
        order = DofOrder(model.prior.Vh)
        for name, basis, dim in (("input", input_basis, order.dim), ("output", output_basis, self._data.dim)):
            if basis.dim != dim:
                raise InputError(f"bases: expected an {name} basis of dimension {dim}, got {basis.dim}.")
        self._decoder, self._shift = order.from_array(input_basis.decoder), order.from_array(input_basis.shift)
        self._encoder = self._data.local(output_basis.encoder)
        self._mean_observable = self._data.local(output_basis.shift)
        self._m = model.generate_vector(hp.PARAMETER)
        self._check_shift()

    def _check_shift(self) -> None:
        set_owned_values(self._m, self._shift)
        mean = self._model.prior.mean
        self._m.axpy(-1.0, mean)
        if self._m.norm("linf") > 1e-8 * max(mean.norm("linf"), 1.0):
            raise InputError("bases: expected the prior mean as shift of the input basis, got another one.")

    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """y (rQ,) and ∂y (rQ, rM) at m̄ + Ψ x."""
        set_owned_values(self._m, self._shift + self._decoder @ x)
        u = self._model.solveState(self._m)
        y = self._data.dot(self._encoder, self._model.observe_local(u) - self._mean_observable)
        columns = self._model.linearize_at(u, self._m).mult_local(self._decoder)
        return y, self._data.dot(self._encoder, columns)

"""The bases, from what the first pass kept of its samples; for the ranks of one mesh together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import zarr

from hippylib_dino.control import ControlDistribution
from hippylib_dino.data.plan import Plan
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.spaces import DofOrder
from hippylib_dino.noise import NoiseCovariance
from hippylib_dino.reduction.basis import Basis
from hippylib_dino.reduction.control import control_basis
from hippylib_dino.reduction.input import derivative_input_basis, kle_input_basis
from hippylib_dino.reduction.output import (
    derivative_output_basis,
    identity_output_basis,
    pod_output_basis,
    pod_state_basis,
)


def build_output_basis(
    model: JacobianModel, plan: Plan, scratch: zarr.Group, done: np.ndarray, *, at_most: bool = False
) -> Basis:
    """The output basis of a plan, from the basis samples `done`; of a rank `at_most` that of the plan."""
    rank = plan.asked("output")
    if model.whole_state:
        data, states = model.data_space, scratch["observable"]

        def snapshots(block: np.ndarray) -> np.ndarray:
            return np.column_stack([data.local(states[int(i)]) for i in done[block]])

        return pod_state_basis(snapshots, data, n_samples=len(done), rank=rank, at_most=at_most)
    observables, noise = scratch["observable"].oindex[done], model.weight_covariance
    if plan.output_basis == "identity":
        return identity_output_basis(observables, noise)
    if plan.output_basis == "pod":
        return pod_output_basis(observables, noise, rank=rank, at_most=at_most)
    covariance = sum(scratch["covariance"][int(i)] for i in done) / len(done)
    controls = model.control_distribution
    if controls is not None:
        for i in done:
            columns = scratch["control_jacobian"][int(i)] @ controls.factor
            covariance += columns @ columns.T / len(done)
    return derivative_output_basis(observables.mean(axis=0), covariance, noise, rank=rank)


def build_input_basis(
    model: JacobianModel, plan: Plan, scratch: zarr.Group, done: np.ndarray, *, at_most: bool = False
) -> Basis:
    """The input basis of a plan, from the basis samples `done`; of a whole state from their rows (Φ⁺)ᵀ J.

    With `at_most`, of as many directions as the samples hold, up to the plan's rank.
    """
    rank, order = plan.asked("input"), DofOrder(model.prior.Vh)
    if plan.input_basis == "kle":
        return kle_input_basis(model.prior, rank=rank, seed=plan.seed)
    if model.whole_state:  # of latent observables, whose noise covariance is the identity
        name, noise = "rows", NoiseCovariance(1.0, plan.output_rank)
        energies = [float(scratch["rows_energy"][int(i)]) for i in done]
    else:
        name, noise = "jacobian", model.weight_covariance
        energies = [np.trace(noise.solve(scratch["covariance"][int(i)])) for i in done]

    def jacobians() -> Iterator[np.ndarray]:
        for i in done:
            yield order.from_array(scratch[name][int(i)].T)

    total = float(np.mean(energies))
    return derivative_input_basis(
        model.prior, jacobians, noise, rank=rank, n_samples=len(done), seed=plan.seed, total_energy=total,
        at_most=at_most,
    )  # fmt: skip


def build_control_basis(
    model: JacobianModel, controls: ControlDistribution, plan: Plan, scratch: zarr.Group, done: np.ndarray
) -> Basis:
    """The control's basis of a plan, from the basis samples `done`; of a whole state from their rows (Φ⁺)ᵀ J_z."""
    name, data = "control_rows" if model.whole_state else "control_jacobian", model.data_space
    hessian = np.zeros((controls.dim, controls.dim))
    for i in done:
        columns = scratch[name][int(i)] @ controls.factor
        weighted = columns if model.whole_state else data.precision(columns)
        hessian += columns.T @ weighted / len(done)
    return control_basis(controls, hessian, None if plan.control_basis == "whitened" else plan.asked("control"))

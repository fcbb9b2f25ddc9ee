"""The laws of every parameter-to-observable map, PDE and surrogate alike, over one fixture list."""

import dolfin as dl
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.modeling import cost_rates, observable_rates
from hippylib_dino.modeling.spaces import owned_values
from hippylib_dino.modeling.verify import STEPS
from tests.problems import MODELS

NAMES = (*MODELS, "confusion surrogate", "linear surrogate")
CURVED = tuple(n for n in NAMES if not n.startswith("linear"))
# hIPPYlib's own Hessian of time-dependent problems is not right in full Newton
WITH_HESSIAN = tuple(n for n in CURVED if n not in ("heat", "reaction"))


@pytest.fixture(params=NAMES)
def case(request, maps):
    return _case(maps[request.param])


@pytest.fixture(params=CURVED)
def curved(request, maps):
    return _case(maps[request.param])


@pytest.fixture(params=WITH_HESSIAN)
def with_hessian(request, maps):
    return _case(maps[request.param])


def _case(model):
    """A map, a point near the mean, a direction of the size of the prior's."""
    # a fixed residual, whatever data other tests left: the rates of the misfit depend on it
    for misfit in getattr(model.misfit, "misfits", [model.misfit]):
        hd.modeling.set_owned_values(misfit.d, np.zeros(misfit.d.local_size()))
    draw = lambda index: hd.data.draw_parameter(model.prior, 9, index)  # noqa: E731
    direction = draw(1)
    direction.axpy(-1.0, model.prior.mean)
    return model, draw(0), direction


def test_every_map_is_listed(maps):
    assert set(NAMES) == set(maps)


def test_observable_taylor_rates(curved):
    first, second = observable_rates(*curved, steps=_steps(curved[0]))
    assert first == pytest.approx(1.0, abs=0.1)
    assert second == pytest.approx(2.0, abs=0.1)


def test_observable_taylor_rate_rejects_a_derivative_off_by_one_percent(curved):
    assert observable_rates(*curved, steps=_steps(curved[0]), scale=1.01)[1] < 1.9


# a network has no solver tolerance: small steps see the asymptotic rate whatever its higher derivatives are,
# which differ from training to training
FINE = 2.0 ** -np.arange(6, 12)


def _steps(model):
    return FINE if isinstance(model, hd.SurrogateModel) else STEPS


def test_cost_taylor_rates(with_hessian):
    first, second, third = cost_rates(*with_hessian, steps=_steps(with_hessian[0]))
    assert first == pytest.approx(1.0, abs=0.15)
    assert second == pytest.approx(2.0, abs=0.15)
    assert third == pytest.approx(3.0, abs=0.25)


def test_cost_taylor_rate_rejects_derivatives_off_by_one_percent(with_hessian):
    _, second, third = cost_rates(*with_hessian, steps=_steps(with_hessian[0]), scale=1.01)
    assert second < 1.9
    assert third < 2.5


@pytest.mark.parametrize("name", ["linear", "linear surrogate"])
def test_affine_map_equals_its_linearization(maps, name):
    model, m, direction = _case(maps[name])
    moved = m.copy()
    moved.axpy(1.0, direction)
    np.testing.assert_allclose(
        model.value(moved), model.value(m) + model.jvp(m, direction), rtol=0, atol=1e-9 * np.abs(model.value(m)).max()
    )


def test_adjoint_identity(case, rng):
    model, m, direction = case
    weights = rng.standard_normal(model.jacobian(m).shape[0])
    forward = weights @ model.jvp(m, direction)
    backward = model.vjp(m, weights).inner(direction)
    assert abs(forward - backward) <= 1e-10 * abs(forward)


def test_jvp_vjp_and_operator_agree_with_dense(case, rng):
    model, m, direction = case
    J = model.jacobian(m)
    dense = J.to_dense()
    assert dense.shape == J.shape
    v, w = owned_values(direction), rng.standard_normal(J.shape[0])
    scale = np.abs(dense).max() * np.abs(v).sum()
    np.testing.assert_allclose(model.jvp(m, direction), dense @ v, rtol=0, atol=1e-10 * scale)
    np.testing.assert_allclose(
        owned_values(model.vjp(m, w)), dense.T @ w, rtol=0, atol=1e-10 * np.abs(dense).max() * np.abs(w).sum()
    )
    J = model.jacobian(m)  # vjp and jvp linearised again
    q, p = dl.Vector(m.mpi_comm()), dl.Vector(m.mpi_comm())
    J.init_vector(q, 0)
    J.init_vector(p, 1)
    assert (q.size(), p.size()) == J.shape
    J.mult(direction, q)
    # a whole state is a vector in dolfin's order, and an array in the canonical one
    data = model.data_space if getattr(model, "whole_state", False) else None
    np.testing.assert_allclose(
        owned_values(q) if data is None else data.whole(owned_values(q)), dense @ v, rtol=0, atol=1e-10 * scale
    )
    hd.modeling.set_owned_values(q, w if data is None else data.local(w))
    J.transpmult(q, p)
    np.testing.assert_allclose(owned_values(p), dense.T @ w, rtol=0, atol=1e-10 * np.abs(dense).max() * np.abs(w).sum())


def test_dense_against_finite_differences(case, rng):
    model, m, _ = case
    dense = model.jacobian(m).to_dense()
    step = 1e-4  # balances rounding of the solves against the third derivative
    for j in rng.choice(dense.shape[1], size=4, replace=False):
        sides = []
        for sign in (1.0, -1.0):
            moved = m.copy()
            values = owned_values(moved)
            values[j] += sign * step
            hd.modeling.set_owned_values(moved, values)
            sides.append(model.value(moved))
        np.testing.assert_allclose(
            (sides[0] - sides[1]) / (2 * step), dense[:, j], rtol=0, atol=1e-5 * np.abs(dense).max()
        )


def test_svd_reproduces_the_dense_jacobian(case):
    model, m, _ = case
    J = model.jacobian(m)
    U, s, Vt = J.svd()
    np.testing.assert_allclose(U * s @ Vt, J.to_dense(), rtol=0, atol=1e-12 * s[0])
    assert (np.diff(s) <= 0).all()
    with pytest.raises(hd.errors.RankError, match=r"rank: expected 1 \.\. "):
        J.svd(rank=min(J.shape) + 1)

import dolfin as dl
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.modeling.spaces import owned_values, set_owned_values
from tests.control_problems import coefficients, vector


@pytest.fixture
def Vh():
    mesh = dl.UnitSquareMesh(hd.sample_communicator(), 4, 4)
    space = dl.FunctionSpace(mesh, "Lagrange", 1)
    return [space, space, space, coefficients(mesh)]


def test_gradient_is_that_of_the_computed_number_where_the_parameter_is_rough(Vh):
    """UFL would integrate the derivative of exp(2 m) with more points than exp(2 m)."""
    quantity = hd.ouu.FormQuantity(Vh, lambda u, m, z: dl.exp(2 * m) * dl.inner(dl.grad(u), dl.grad(u)) * dl.dx)
    u, m, direction = (vector(dl.Function(Vh[0]).vector(), seed, 2.0) for seed in (0, 1, 2))
    gradient, action = m.copy(), m.copy()
    quantity.grad(hp.PARAMETER, [u, m], gradient)
    quantity.setLinearizationPoint([u, m])
    quantity.apply_ij(hp.PARAMETER, hp.PARAMETER, direction, action)

    def at(step):
        moved, slope = m.copy(), m.copy()
        moved.axpy(step, direction)
        quantity.grad(hp.PARAMETER, [u, moved], slope)
        return quantity.cost([u, moved]), owned_values(slope)

    (up, slope_up), (down, slope_down) = at(1e-5), at(-1e-5)
    assert gradient.inner(direction) == pytest.approx((up - down) / 2e-5, rel=1e-6)
    difference = (slope_up - slope_down) / 2e-5
    np.testing.assert_allclose(owned_values(action), difference, rtol=0, atol=1e-6 * np.abs(difference).max())


def test_numbers_that_the_form_reads_from_elsewhere_are_seen(Vh):
    weight = {"of": 1.0}
    quantity = hd.ouu.FormQuantity(Vh, lambda u, m, z: weight["of"] * u**2 * dl.dx)
    u = dl.Function(Vh[0]).vector()
    set_owned_values(u, np.ones(u.local_size()))
    gradient = u.copy()
    for factor in (1.0, 3.0):
        weight["of"] = factor
        quantity.grad(hp.STATE, [u, None], gradient)
        assert quantity.cost([u, None]) == pytest.approx(factor)
        assert gradient.inner(u) == pytest.approx(2 * factor)

"""Arrays in two orders of degrees of freedom do not meet unseen."""

import copy
import pickle

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError
from hippylib_dino.modeling.spaces import owned_values
from hippylib_dino.ordering import ordered

MEETINGS = {
    "matmul": lambda a, b: a @ b,
    "transposed": lambda a, b: b.T @ a.T,
    "sliced": lambda a, b: a[:1] @ b[:, 1:],
    "dot": np.dot,
    "einsum": lambda a, b: np.einsum("ij,jk->ik", a, b),
    "tensordot": lambda a, b: np.tensordot(a, b, axes=1),
    "difference": lambda a, b: a - b.T,
    "concatenated": lambda a, b: np.concatenate([a, b.T]),
    "method": lambda a, b: a.dot(b),
}


@pytest.mark.parametrize("how", MEETINGS)
def test_two_orders_do_not_meet(how, rng):
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((4, 3))
    meet = MEETINGS[how]
    with pytest.raises(InputError, match=r"one order of degrees of freedom.*\.to_dense\(order=.canonical.\)"):
        meet(ordered(a, "dolfin"), ordered(b, "canonical"))
    expected = meet(a, b)
    for mine, other in ((ordered(a, "dolfin"), b), (ordered(a, "canonical"), ordered(b, "canonical"))):
        found = meet(mine, other)
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, expected)


def test_array_is_an_array_otherwise(rng):
    a = rng.standard_normal((3, 4))
    b = ordered(a, "canonical")
    np.testing.assert_array_equal(np.linalg.svd(b)[1], np.linalg.svd(a)[1])
    assert type(b[[2, 0]]) is np.ndarray  # another order
    assert b[0].dof_order == b.T.dof_order == copy.deepcopy(b).dof_order == "canonical"
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(b)), a)
    b += 1.0
    np.testing.assert_array_equal(b, a)  # not copied
    assert b.dof_order == "canonical"
    assert float(b[0, 0]) == a[0, 0]
    assert isinstance(b.sum(), float)


@pytest.mark.parametrize("name", ["confusion", "confusion surrogate", "heat", "controlled"])
def test_jacobian_in_either_order(maps, name):
    model = maps[name]
    m = hd.data.draw_parameter(model.prior, 1, 1)
    order = hd.modeling.DofOrder(model.prior.Vh)
    J = model.jacobian(m)
    here, stored = J.to_dense(), J.to_dense(order="canonical")
    np.testing.assert_array_equal(np.asarray(stored), order.to_array(here.T).T)
    np.testing.assert_allclose(here @ owned_values(m), stored @ order.to_array(owned_values(m)), rtol=1e-9)
    with pytest.raises(InputError, match=r"order: expected .dolfin. or .canonical., got .local."):
        J.to_dense(order="local")


def test_jacobian_meets_the_basis_in_one_order_alone(models, confusion_dataset):
    model, basis = models["confusion"], confusion_dataset.input_basis
    J = model.jacobian(hd.data.draw_parameter(model.prior, 0, 0))  # the first sample
    for mixed in (lambda: J.to_dense() @ basis.decoder, lambda: J.svd()[2] @ basis.decoder):
        with pytest.raises(InputError, match="matmul: expected arrays in one order"):
            mixed()
    sample = confusion_dataset.split("train")
    expected = sample.reduced_jacobian[list(sample.index).index(0)]
    reduced = confusion_dataset.output_basis.encoder.T @ J.to_dense("canonical") @ basis.decoder
    np.testing.assert_allclose(reduced, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    local = hd.modeling.DofOrder(model.prior.Vh).from_array(basis.decoder)
    np.testing.assert_allclose(J.to_dense() @ local, J.to_dense("canonical") @ basis.decoder, atol=1e-12)

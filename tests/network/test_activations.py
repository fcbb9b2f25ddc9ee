import numpy as np
import pytest

from hippylib_dino.errors import InputError
from hippylib_dino.network.activations import get_activation, numpy_ops
from hippylib_dino.network.backend import keras

NAMES = ("gelu", "tanh", "softplus", "silu")
Z = np.linspace(-4, 4, 41)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_against_central_differences(name):
    a, h = get_activation(name), 1e-5
    (above, slope_above), (below, slope_below) = (a.expand(numpy_ops, z) for z in (Z + h, Z - h))
    first, second = (above - below) / (2 * h), (slope_above - slope_below) / (2 * h)
    np.testing.assert_allclose(a.expand(numpy_ops, Z)[1], first, atol=1e-9)
    np.testing.assert_allclose(a.second(numpy_ops, Z), second, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_keras_and_numpy_agree_with_keras_own_activation(name):
    a = get_activation(name)
    ours = keras.ops.convert_to_numpy(a.expand(keras.ops, keras.ops.convert_to_tensor(Z))[0])
    np.testing.assert_allclose(ours, a.expand(numpy_ops, Z)[0], rtol=1e-6, atol=1e-6)
    theirs = keras.activations.gelu(Z, approximate=False) if name == "gelu" else keras.activations.get(name)(Z)
    np.testing.assert_allclose(ours, keras.ops.convert_to_numpy(theirs), rtol=1e-5, atol=1e-6)


def test_unknown_activation_is_named():
    with pytest.raises(InputError, match=r"activation: expected one of \['gelu', .*\], got 'relu'"):
        get_activation("relu")

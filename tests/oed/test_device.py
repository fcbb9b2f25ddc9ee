"""MAP points on Keras's device are those of NumPy."""

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError
from hippylib_dino.network import ReducedDense
from hippylib_dino.oed import InformationGain, random_designs
from tests.oed.toys import polynomial_dino

pytestmark = pytest.mark.backends


@pytest.fixture
def network(rng):
    """A network of random weights, clearly nonlinear."""
    architecture = ReducedDense(6, 9, hidden=(16,))
    weights = [0.3 * rng.standard_normal(shape) for shape in architecture.weight_shapes()]
    like = polynomial_dino(np.zeros(9), np.zeros((9, 6)))
    return hd.DINO(architecture, weights, like.input_basis, like.output_basis, {})


def test_values_are_those_of_numpy(network):
    numpy, device = (
        InformationGain(network, 1.0, n_draws=6, rel_tolerance=1e-6, engine=engine) for engine in ("numpy", "keras")
    )
    designs = [*random_designs(numpy, 4, 5), (1,), (0, 2, 5, 8, 3)]
    expected = numpy.evaluate(designs)
    np.testing.assert_allclose(device.evaluate(designs), expected, rtol=1e-5)
    assert device.n_failed == numpy.n_failed == 0
    batch = device.map_points((0, 3))
    other = numpy.map_points((0, 3))
    np.testing.assert_allclose(batch.x, other.x, rtol=0, atol=1e-5)
    np.testing.assert_allclose(batch.jacobian, other.jacobian, rtol=0, atol=1e-5)


def test_also_after_measuring(network, rng):
    readings = rng.standard_normal(2)
    numpy, device = (
        InformationGain(network, 1.0, n_draws=4, rel_tolerance=1e-6, engine=engine).condition((1, 4), readings)
        for engine in ("numpy", "keras")
    )
    np.testing.assert_allclose(device((0, 7)), numpy((0, 7)), rtol=1e-5)


def test_what_does_not_converge_is_left_out(network):
    gain = InformationGain(network, 1e-6, n_draws=5, rel_tolerance=1e-300, engine="keras", max_failed=0.99)
    samples = gain.samples((0, 3, 5))
    assert np.isnan(samples).sum() == gain.n_failed > 0


def test_maps_without_blocks_are_refused():
    gain = InformationGain(polynomial_dino(np.zeros(2), np.eye(2)), 0.3, n_draws=2, engine="keras")
    with pytest.raises(InputError, match='engine: "keras" needs a network of blocks'):
        gain((0,))
    with pytest.raises(InputError, match="engine: expected one of"):
        InformationGain(polynomial_dino(np.zeros(2), np.eye(2)), 0.3, engine="cuda")

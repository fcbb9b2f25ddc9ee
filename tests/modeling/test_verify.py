import numpy as np
import pytest

from hippylib_dino.modeling.verify import STEPS, rate


@pytest.mark.parametrize("order", [1, 2, 3])
def test_rate_is_the_order_of_decay(order):
    assert rate(7.0 * STEPS**order) == pytest.approx(order)


def test_rate_of_a_mixture_is_below_the_higher_order():
    assert rate(STEPS**2 + 0.1 * STEPS) < 1.9
    assert np.isfinite(rate(STEPS**2 + 1e-12))

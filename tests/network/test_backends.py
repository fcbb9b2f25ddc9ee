"""Other backends of Keras, and several devices: the marked tests once more, in an interpreter of its own."""

import json
import os
from importlib.util import find_spec

import numpy as np
import pytest

AGAIN = """
import sys, pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-m", "backends", "tests/network", "tests/oed"]))
"""


@pytest.fixture(scope="module")
def jax_installed():
    if find_spec("jax") is None:
        if "CI" in os.environ:
            pytest.fail("jax is not installed, and continuous integration tests it: pip install -e '.[dev]'")
        pytest.skip("jax is not installed: pip install -e '.[jax]'")


@pytest.mark.usefixtures("jax_installed")
def test_network_on_jax(run_python, confusion_dataset):
    done = run_python(AGAIN, KERAS_BACKEND="jax", TEST_DATASET=str(confusion_dataset.path))
    assert " passed" in done.stdout
    assert "failed" not in done.stdout


DEVICES = """
import json, sys
import jax, keras
import hippylib_dino as hd
if {n} > 1:
    keras.distribution.set_distribution(keras.distribution.DataParallel())
assert keras.backend.backend() == "jax" and jax.device_count() == {n}
dino = hd.train(hd.Dataset.open({path!r}), "h1_sketched", epochs=5, batch_size=8, hidden=(8,), progress=False)
print(json.dumps([w.tolist() for w in dino.weights]))
"""


@pytest.mark.usefixtures("jax_installed")
def test_two_devices_train_what_one_does(run_python, confusion_dataset):
    """By Keras's own distribution, on two halves of a CPU, to the rounding of sums in another order."""
    weights = []
    for n in (1, 2):
        flags = f"--xla_force_host_platform_device_count={n}"
        code = DEVICES.format(n=n, path=str(confusion_dataset.path))
        done = run_python(code, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu", XLA_FLAGS=flags)
        weights.append([np.array(w) for w in json.loads(done.stdout.splitlines()[-1])])
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-4 * np.abs(one).max() + 1e-6)

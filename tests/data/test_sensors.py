"""Observables of no use are named before a run."""

import warnings

import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.data.sensors import SensorWarning, check_sensors
from hippylib_dino.errors import MisfitError

SMALL = {"n_samples": 2, "n_validation": 0, "n_test": 0, "input_rank": 2, "output_rank": 2, "progress": False}
INSIDE, TWIN = (0.4, 0.6), (0.7, 0.3)
OUTSIDE, CLAMPED = (1.5, 0.5), (0.0, 0.5)


def observed_at(model, *points):
    """The problem with these sensors, of two observables each: the state is a vector."""
    B = hp.assemblePointwiseObservation(model.problem.Vh[hp.STATE], np.array(points))
    return hd.JacobianModel(model.problem, model.prior, hp.DiscreteStateObservation(B, noise_variance=1e-4))


@pytest.mark.parametrize("name", ["vector", "linear", "heat", "state", "controlled"])
def test_useful_sensors_are_passed_over_in_silence(models, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", SensorWarning)
        check_sensors(models[name])


@pytest.mark.parametrize("name", ["vector", "accelerated_vector"])
def test_sensors_of_no_use_are_named(models, name):
    with pytest.warns(SensorWarning) as caught:
        check_sensors(observed_at(models[name], INSIDE, OUTSIDE, TWIN, CLAMPED, TWIN))
    (message,) = (str(w.message) for w in caught if w.category is SensorWarning)
    assert "observables 2, 3 (2) see nothing of the state" in message
    assert "observables 6, 7 (2) read what a Dirichlet condition prescribes" in message
    assert "observables 4, 8 (2) are equal" in message
    assert "observables 5, 9 (2) are equal" in message
    assert "do not depend" not in message


def test_nothing_to_learn_is_an_error(models, tmp_path):
    with pytest.raises(MisfitError, match=r"none of its 4 observables depends .* 0, 1 \(2\) see nothing .* 2, 3 \(2\)"):
        hd.generate(observed_at(models["vector"], OUTSIDE, CLAMPED), tmp_path / "d", **SMALL)
    assert not (tmp_path / "d" / "zarr.json").exists()


def test_observables_at_the_initial_time_are_named(models):
    with pytest.warns(SensorWarning, match=r"observables 9, .*, 16 \(8\) do not depend on the parameter"):
        check_sensors(models["reaction"])


def test_generation_warns_and_goes_on(models, tmp_path):
    model = observed_at(models["accelerated_vector"], INSIDE, OUTSIDE, TWIN)
    with pytest.warns(SensorWarning, match=r"observables 2, 3 \(2\) see nothing"):
        dataset = hd.generate(model, tmp_path / "d", **SMALL)
    assert (dataset.split("train").observable[:, 2:4] == 0).all()
    with warnings.catch_warnings():  # it was said once
        warnings.simplefilter("error", SensorWarning)
        hd.generate(model, tmp_path / "d", **SMALL, resume=True)


ON_RANKS = """
import warnings
import dolfin as dl
from hippylib_dino.data.sensors import check_sensors
from tests import problems
from tests.data import test_sensors as sensors
points = sensors.INSIDE, sensors.OUTSIDE, sensors.TWIN, sensors.CLAMPED, sensors.TWIN
model = sensors.observed_at(problems.vector(dl.MPI.comm_world), *points)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    check_sensors(model, warn=dl.MPI.comm_world.rank == 0)
print(*(f"said {w.message}" for w in caught if w.category is sensors.SensorWarning))
"""


def test_partitioned_meshes_say_the_same(run_python):
    one, two = (
        [line for line in run_python(ON_RANKS, ranks=n).stdout.splitlines() if line.startswith("said")] for n in (1, 2)
    )
    assert len(one) == 1
    assert two == one

"""Samples that say nothing are bounded, named, and do not spoil a training."""

import dataclasses

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import TrainingWarning
from hippylib_dino.network.formulations import H1, L2, SketchedH1, TruncatedH1
from hippylib_dino.network.metrics import relative_errors, sample_errors
from hippylib_dino.network.sizes import account_of_silent, floored


def with_zeros(samples, numbers):
    """The samples with some of zero observable and Jacobian."""
    changed = {}
    for name in ("y", "reduced_jacobian", "observable", "observable_energy", "jacobian_energy"):
        changed[name] = getattr(samples, name).copy()
        changed[name][numbers] = 0.0
    return dataclasses.replace(samples, **changed)


@pytest.fixture
def some(confusion_dataset):
    return with_zeros(confusion_dataset.split("train"), [3, 7])


def test_squares_far_below_the_mean_count_a_thousandth_of_it():
    np.testing.assert_allclose(floored(np.array([1e-12, 1.0, 2.0])), [1e-3, 1.0, 2.0])
    np.testing.assert_array_equal(floored(np.zeros(3)), np.ones(3))
    spread = np.array([0.5, 1.0, 2.0])
    np.testing.assert_array_equal(floored(spread), spread)


@pytest.mark.parametrize("formulation", [L2(), H1(), TruncatedH1(4), SketchedH1()])
def test_no_sample_has_all_the_weight(some, formulation):
    from hippylib_dino.network.batches import Batches

    batches = Batches(some, some.x, formulation, len(some.x))
    _, _, weights = batches[0]
    for weight in weights.values() if isinstance(weights, dict) else [weights]:
        assert np.isfinite(weight).all()
        assert weight.max() < 3000 * np.median(weight)


def test_errors_are_finite_and_those_of_the_others_are_what_they_were(confusion_dataset, confusion_dino, some):
    bases = confusion_dataset.input_basis, confusion_dataset.output_basis
    values, jacobians = confusion_dino.predict(some.x)
    assert all(np.isfinite(error) for error in relative_errors(some, values, jacobians, *bases).values())
    before = sample_errors(confusion_dataset.split("train"), values, jacobians, *bases)
    after = sample_errors(some, values, jacobians, *bases)
    others = np.setdiff1d(np.arange(len(some.x)), [3, 7])
    np.testing.assert_allclose(after["jacobian"][others], before["jacobian"][others], rtol=1e-9)


def test_what_is_zero_is_named(some):
    energies = {"observable": some.observable_energy, "Jacobian": some.jacobian_energy}
    first, second = account_of_silent(some.index, energies)
    assert first.startswith(f"2 of {len(some.x)} samples have a zero observable (numbers 3, 7);")
    assert "zero Jacobian" in second
    assert account_of_silent(np.arange(3), {"observable": np.ones(3)}) == []


@pytest.mark.parametrize("formulation", ["l2", "h1"])
def test_a_training_with_zeros_is_finite_and_warns(confusion_dataset, some, monkeypatch, formulation):
    split = hd.Dataset.split

    def zeroed(self, part, *args, **kwargs):
        samples = split(self, part, *args, **kwargs)
        return with_zeros(samples, [3, 7]) if part == "train" else samples

    monkeypatch.setattr(hd.Dataset, "split", zeroed)
    with pytest.warns(TrainingWarning, match="zero Jacobian"):
        dino = hd.train(confusion_dataset, formulation, epochs=2, batch_size=16, hidden=(8,), progress=False)
    assert np.isfinite(dino.training["history"]["loss"]).all()

"""Samples that say nothing are bounded, named, and do not spoil a training."""

import dataclasses

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import TrainingWarning
from hippylib_dino.network.formulations import H1, L2, SketchedH1, TruncatedH1
from hippylib_dino.network.metrics import relative_errors, sample_errors
from hippylib_dino.network.sizes import account_of_silent, floored, spread
from hippylib_dino.noise import NoiseCovariance


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
    ordinary = np.array([0.5, 1.0, 2.0])
    np.testing.assert_array_equal(floored(ordinary), ordinary)


@pytest.mark.parametrize("formulation", [L2(), H1(), TruncatedH1(4), SketchedH1()])
def test_no_sample_has_all_the_weight(some, formulation):
    from hippylib_dino.network.batches import Batches

    batches = Batches(some, some.x, formulation, 1.0, len(some.x))
    _, _, weights = batches[0]
    for weight in weights.values() if isinstance(weights, dict) else [weights]:
        assert np.isfinite(weight).all()
        assert weight.max() < 3000 * np.median(weight)


def test_errors_are_finite_and_those_of_the_others_are_what_they_were(confusion_dataset, confusion_dino, some):
    basis = confusion_dataset.input_basis
    values, jacobians = confusion_dino.predict(some.x)
    assert all(np.isfinite(error) for error in relative_errors(some, values, jacobians, basis, spread=1.0).values())
    before = sample_errors(confusion_dataset.split("train"), values, jacobians, basis, spread=1.0)
    after = sample_errors(some, values, jacobians, basis, spread=1.0)
    others = np.setdiff1d(np.arange(len(some.x)), [3, 7])
    np.testing.assert_allclose(after["jacobian"][others], before["jacobian"][others], rtol=1e-9)


def test_what_is_zero_is_named(some, confusion_dataset):
    (said,) = account_of_silent(some)
    assert said.startswith(f"2 of {len(some.x)} samples have a zero Jacobian (numbers 3, 7);")
    assert account_of_silent(confusion_dataset.split("train")) == []


def test_observables_that_never_change_are_named(confusion_dataset):
    samples = confusion_dataset.split("train")
    q = samples.observable.copy()
    q[:, [2, 5]] = 300.1
    (said,) = account_of_silent(dataclasses.replace(samples, observable=q))
    assert said.startswith(f"2 of {q.shape[1]} observables are the same in all samples (numbers 2, 5);")


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


# ---- where zero is --------------------------------------------------------------------------


class Shifted(hd.Dataset):
    """A dataset whose observables are all larger by some constants, and nothing else is."""

    shift: np.ndarray

    @classmethod
    def of(cls, dataset, shift):
        view = cls(dataset._group, dataset.path)
        view.shift = np.broadcast_to(shift, dataset.output_basis.shift.shape)
        return view

    def basis(self, name):
        basis = super().basis(name)
        return dataclasses.replace(basis, shift=basis.shift + self.shift) if name == "output" else basis

    def _read(self, name, index):
        values = super()._read(name, index)
        if name == "observable":
            return values + self.shift
        if name == "observable_energy":
            noise = NoiseCovariance(self.weight_covariance, len(self.shift))
            return (noise.whiten(self._read("observable", index).T) ** 2).sum(axis=0)
        return values


@pytest.mark.parametrize("shift", [300.0, "of each sensor its own"])
@pytest.mark.parametrize("formulation", ["l2", "h1"])
def test_a_shift_of_the_observable_changes_neither_training_nor_errors(confusion_dataset, rng, formulation, shift):
    shift = 300.0 if shift == 300.0 else 100.0 * rng.standard_normal(confusion_dataset.output_basis.dim)
    shifted = Shifted.of(confusion_dataset, shift)
    relative = [np.sqrt(d.split("test").observable_energy.mean() / spread(d.split("train"), d)) for d in
                (confusion_dataset, shifted)]  # fmt: skip
    assert relative[1] > 50 * relative[0]  # of which nothing is to be seen
    options = {"epochs": 3, "batch_size": 8, "hidden": (16,), "progress": False}
    first, second = (hd.train(d, formulation, **options) for d in (confusion_dataset, shifted))
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(second.training["history"][name], first.training["history"][name], rtol=1e-4)
    for w, other in zip(first.weights, second.weights, strict=True):
        np.testing.assert_allclose(other, w, rtol=0, atol=1e-4 * np.abs(w).max())
    errors, again = first.evaluate(confusion_dataset), second.evaluate(shifted)
    assert errors.keys() == again.keys()
    for name, error in errors.items():
        assert again[name] == pytest.approx(error, rel=1e-3, abs=1e-6), name


def test_a_constant_scores_one_and_the_mean_jacobian_what_the_linear_model_does(confusion_dataset, confusion_dino):
    errors = confusion_dino.evaluate(confusion_dataset, "train")
    assert errors["observable_constant"] == pytest.approx(1.0)
    assert errors["jacobian_constant"] == pytest.approx(1.0)
    affine = hd.linear_model(confusion_dataset).evaluate(confusion_dataset, "train")
    for name in ("observable", "jacobian"):
        assert errors[f"{name}_affine"] == pytest.approx(affine[name])
        assert errors[name] < 0.5 * affine[name]


def test_errors_are_in_noise_deviations_too(confusion_dataset, confusion_dino):
    samples = confusion_dataset.split("test")
    missed = confusion_dino.output_basis.decode(confusion_dino.latent_map.value(samples.x)) - samples.observable
    deviations = missed / np.sqrt(confusion_dataset.noise_covariance)
    errors = confusion_dino.evaluate(confusion_dataset)
    assert errors["observable_in_noise"] == pytest.approx(np.sqrt((deviations**2).mean()))
    centred = confusion_dataset.split("train").observable
    centred = (centred - centred.mean(axis=0)) / np.sqrt(confusion_dataset.noise_covariance)
    size = np.sqrt((centred**2).sum(axis=1).mean())
    assert errors["observable"] == pytest.approx(np.sqrt((deviations**2).sum(axis=1).mean()) / size)


def test_observables_without_spread_count_in_noise_deviations(confusion_dataset):
    samples = confusion_dataset.split("train")
    q = np.full_like(samples.observable, 300.1)
    same = dataclasses.replace(samples, observable=q, observable_energy=(q**2).sum(axis=1))
    assert spread(same, confusion_dataset) == 1.0

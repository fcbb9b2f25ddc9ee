"""Errors by sample, their parts, and intervals of their root mean square."""

import warnings

import numpy as np
import pytest

from hippylib_dino.network.metrics import confidence_intervals, relative_errors, root_mean, sample_errors


def test_evaluation_is_the_root_mean_of_the_samples(confusion_dataset, confusion_dino):
    squares, errors = confusion_dino.sample_errors(confusion_dataset), confusion_dino.evaluate(confusion_dataset)
    assert list(squares) == list(errors)
    assert all(values.shape == (8,) for values in squares.values())
    for name, values in squares.items():
        assert errors[name] == np.sqrt(values.mean())


def test_samples_do_not_depend_on_each_other(confusion_dataset, confusion_dino):
    """But for misfit gradients, whose data are the next sample's."""
    samples, d = confusion_dataset.split("test"), confusion_dino
    alone = confusion_dataset.split("test", 1)
    values, jacobians = d.predict_samples(confusion_dataset, samples)
    all_of_them = sample_errors(samples, values, jacobians, d.input_basis, spread=3.0)
    first = sample_errors(alone, values[:1], jacobians[:1], d.input_basis, spread=3.0)
    assert set(all_of_them) - set(first) == {"misfit_gradient", "misfit_gradient_riesz"}
    for name, value in first.items():
        assert value == pytest.approx(all_of_them[name][:1], rel=1e-10)


def test_total_is_truncation_and_network(confusion_dataset, confusion_dino, rng):
    """Both are Pythagoras, of each sample."""
    cut = confusion_dataset.truncate(24, 12)
    samples = cut.split("test")
    values = samples.y + rng.standard_normal(samples.y.shape)
    jacobians = samples.reduced_jacobian * 1.05
    squares = sample_errors(samples, values, jacobians, cut.input_basis, spread=3.0)
    missed = cut.output_basis.decode(values) - samples.observable
    np.testing.assert_allclose(squares["observable"], (missed**2).sum(axis=1) / cut.noise_covariance / 3.0, rtol=1e-9)
    for name in ("observable", "jacobian"):
        parts = squares[f"{name}_truncation"] + squares[f"{name}_network"]
        np.testing.assert_allclose(squares[name], parts, rtol=1e-9)
        assert squares[f"{name}_truncation"].min() > 0
    assert relative_errors(samples, values, jacobians, cut.input_basis, spread=3.0)["jacobian_network"] < 0.05


def test_intervals_cover_the_truth():
    """Of 200 draws of 60 squared errors with a heavy tail, 95 % intervals miss at most 28 (level 1e-6 at 93 %)."""
    rng = np.random.default_rng(1)
    truth = np.exp(0.5 * 0.6**2 / 2)  # of sqrt(E s), log s ~ N(0, 0.6²)
    draws = {str(i): values for i, values in enumerate(np.exp(0.6 * rng.standard_normal((200, 60))))}
    intervals = confidence_intervals(draws)
    missed = sum(not low <= truth <= high for low, high in intervals.values())
    assert 1 <= missed <= 28
    assert all(low <= root_mean(draws[name]) <= high for name, (low, high) in intervals.items())


def test_intervals_shrink_with_the_samples_and_are_the_same_again():
    rng = np.random.default_rng(0)
    few, many = rng.random(50), rng.random(5000)
    (a, b), (c, d) = confidence_intervals({"few": few})["few"], confidence_intervals({"many": many})["many"]
    assert 5 < (b - a) / (d - c) < 20
    assert confidence_intervals({"few": few})["few"] == (a, b)
    wide = confidence_intervals({"few": few}, level=0.99)["few"]
    assert wide[0] < a < b < wide[1]


def test_intervals_without_spread():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert confidence_intervals({"exact": np.zeros(8), "same": np.full(8, 0.25)}) == {
            "exact": (0.0, 0.0),
            "same": (0.5, 0.5),
        }
        low, high = confidence_intervals({"but for rounding": 1 + 1e-16 * np.arange(8)})["but for rounding"]
        assert low == high == pytest.approx(1.0)
        assert np.isnan(confidence_intervals({"one": np.array([0.1])})["one"]).all()


def test_intervals_of_a_table_hold_each_its_own_value():
    squares = {str(i): (1 + i) * values for i, values in enumerate(np.random.default_rng(0).random((10, 512)))}
    intervals = confidence_intervals(squares)
    assert intervals.keys() == squares.keys()
    for name, (low, high) in intervals.items():
        value = np.sqrt(squares[name].mean())
        assert 0.9 * value < low < value < high < 1.1 * value

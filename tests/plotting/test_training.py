"""What a trained DINO's figures show, and what is refused."""

import numpy as np
import pytest

from hippylib_dino import plotting
from hippylib_dino.errors import InputError
from hippylib_dino.plotting.training import percent
from hippylib_dino.reduction.basis import Basis


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def basis(eigenvalues, rank, total=None):
    vectors = np.eye(len(eigenvalues))[:, :rank]
    shift = np.zeros(len(eigenvalues))
    return Basis(vectors, vectors, shift, np.array(eigenvalues), "derivative", "prior precision", total_energy=total)


def test_distribution_ends_at_one_with_the_mean_marked():
    errors = {"observable": [0.01, 0.02, 0.04, 0.03], "Jacobian": [0.1, 0.2, 0.1, 0.4]}
    figure = plotting.plot_sample_errors(errors)
    (axes,) = figure.axes
    assert legend(figure)[0] == "observable: median 2.5 %, largest 4 %"
    curve, mean = axes.lines[:2]
    np.testing.assert_allclose(curve.get_ydata(), [0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(curve.get_xdata()[1:], sorted(errors["observable"]))
    assert mean.get_xdata()[0] == pytest.approx(np.sqrt(np.mean(np.square(errors["observable"]))))
    assert axes.get_xscale() == "log"


def test_errors_that_are_all_zero_draw():
    assert plotting.plot_sample_errors({"exact": np.zeros(3)}).axes[0].get_xscale() == "linear"
    assert plotting.plot_error_against_size(np.ones(3), {"exact": np.zeros(3)}).axes[0].get_yscale() == "linear"
    assert len(plotting.plot_error_shares({"exact": (0.0, 0.0)}).axes[0].texts) == 0


def test_shares_are_of_squares():
    (axes,) = plotting.plot_error_shares({"observable": (0.0, 0.01), "Jacobian": (0.04, 0.03)}).axes
    np.testing.assert_allclose([patch.get_width() for patch in axes.patches], [0, 0.64, 1, 0.36])
    assert [text.get_text() for text in axes.texts] == ["64 %", "100 %", "36 %"]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["observable 1 %\ntruncation 0\nnetwork 1 %", "Jacobian 5 %\ntruncation 4 %\nnetwork 3 %"]


def test_medians_of_groups_follow_the_errors():
    size = np.linspace(0.5, 1.5, 80)
    (axes,) = plotting.plot_error_against_size(size, {"observable": 0.01 * size**2}).axes
    x, y = axes.lines[0].get_data()
    assert len(x) == 8
    np.testing.assert_allclose(y, 0.01 * x**2, rtol=0.01)
    np.testing.assert_array_equal(axes.collections[0].get_offsets()[:, 0], size)


def test_columns_and_their_errors():
    truth, error = np.array([8.0, 2.0, 1e-20]), np.array([0.08, 2.0, 0.0])
    above, below = plotting.plot_directions(truth, error).axes
    np.testing.assert_allclose(above.lines[0].get_ydata(), [0.8, 0.2])  # the last is rounding
    np.testing.assert_allclose(below.lines[0].get_ydata(), [0.1, 1.0])
    np.testing.assert_array_equal(below.lines[0].get_xdata(), [1, 2])


@pytest.mark.parametrize("n", [5, 500])
def test_one_sample_by_observable(n):
    true = np.linspace(1, 2, n)
    figure = plotting.plot_prediction(true, true + 0.1, noise_std=np.full(n, 0.05))
    above, below = figure.axes
    assert [line.get_marker() for line in above.lines] == (["o", "x"] if n == 5 else ["None", "None"])
    (stems,) = below.collections[-1:]
    np.testing.assert_allclose([segment[1, 1] for segment in stems.get_segments()], 2.0)
    assert legend(figure) == ["true", "predicted", "one noise standard deviation"]
    assert plotting.plot_prediction(true, true).axes[1].get_ylabel() == "difference"


def test_ranks_and_what_they_leave_out():
    figure = plotting.plot_bases(basis([8.0, 4.0, 2.0, 1.0], 2, total=16.0), basis([3.0, 1.0], 2))
    spectra, left_out = figure.axes
    assert legend(figure) == [
        "input, derivative: rank 2 leaves out 25 %",
        "output, derivative: rank 2 leaves out nothing of what was computed",
    ]
    np.testing.assert_allclose(left_out.lines[0].get_ydata(), [0.5, 0.25, 0.125, 0.0625])
    for axes in (spectra, left_out):
        dotted = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
        assert dotted == [2, 2]


def test_percent():
    assert [percent(value) for value in (0.04069, 1.0, 1e-15, 0.0, np.nan)] == ["4.07 %", "100 %", "0", "0", "nan %"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plotting.plot_sample_errors({}), "errors: expected a dict with at least one entry"),
        (lambda: plotting.plot_sample_errors({"a": [1.0], "b": [1.0, 2.0]}), r"errors\['b'\]: expected finite values"),
        (lambda: plotting.plot_sample_errors({"a": [np.nan]}), "1 not finite"),
        (lambda: plotting.plot_error_shares({"a": (-1.0, 1.0)}), r"parts\['a'\]: expected \(truncation, network\)"),
        (lambda: plotting.plot_error_against_size([1.0], {"a": [1.0, 2.0]}), r"size: expected shape \(2,\)"),
        (lambda: plotting.plot_directions([1.0], [1.0, 2.0]), r"truth, error: expected two arrays \(rM,\)"),
        (lambda: plotting.plot_prediction([1.0], [1.0, 2.0]), r"true, predicted: expected two arrays \(dQ,\)"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()

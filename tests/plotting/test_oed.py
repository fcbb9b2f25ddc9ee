"""What the figures of designs show, and what is refused."""

import numpy as np
import pytest

from hippylib_dino import plotting
from hippylib_dino.errors import InputError

POINTS = np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])


@pytest.mark.parametrize("scores", [None, [1.0, 2.0, 3.0, 4.0]])
def test_sensors_are_numbered_in_order(scores):
    axes = plotting.plot_design(POINTS, [2, 0], scores=scores).axes[0]
    assert [text.get_text() for text in axes.texts] == ["1", "2"]
    np.testing.assert_array_equal([text.get_position() for text in axes.texts], POINTS[[2, 0]])
    candidates, chosen = axes.collections
    np.testing.assert_array_equal(candidates.get_offsets(), POINTS[[1, 3]])
    np.testing.assert_array_equal(chosen.get_offsets(), POINTS[[2, 0]])
    assert axes.get_title() == "2 of 4 candidates, in order"


def test_sensors_in_space():
    points = np.column_stack([POINTS, [0.0, 0.5, 1.0, 2.0]])
    axes = plotting.plot_design(points, [3, 1], scores=np.arange(4.0)).axes[0]
    assert [text.get_text() for text in axes.texts] == ["1", "2"]
    np.testing.assert_array_equal([text.get_position_3d() for text in axes.texts], points[[3, 1]])
    assert axes.get_zlabel() == "z"


def test_paths_and_band():
    random = {1: [0.5, 1.0, 0.1], 3: [1.0, 2.0, 1.5]}
    (axes,) = plotting.plot_gain({"greedy": (1.0, 1.8, 2.4)}, random).axes
    median, path = axes.lines
    np.testing.assert_array_equal(path.get_data(), [(1, 2, 3), (1.0, 1.8, 2.4)])
    np.testing.assert_array_equal(median.get_data(), [(1, 3), (0.5, 1.5)])
    corners = axes.collections[0].get_paths()[0].vertices
    assert corners[:, 1].min() == 0.1
    assert corners[:, 1].max() == 2.0
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["3 random designs", "their median", "greedy"]


def test_histogram_of_random_designs():
    (axes,) = plotting.plot_random_designs([1.0, 2.0, 3.0, np.nan, 2.5], {"found": 2.7}).axes
    assert sum(patch.get_height() for patch in axes.patches) == 4
    assert axes.lines[0].get_xdata()[0] == 2.7
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(labels) == ["4 random designs", "found: 2.7, better than 75%"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plotting.plot_design(np.zeros((3, 4)), [0]), r"points: expected shape \(n_candidates, 2\) or"),
        (lambda: plotting.plot_design(POINTS, [4]), "sensors: expected numbers of candidates, 0 to 3"),
        (lambda: plotting.plot_design(POINTS, []), "sensors: expected numbers of candidates, 0 to 3"),
        (lambda: plotting.plot_design(POINTS, [0], scores=[1.0]), r"scores: expected shape \(4,\)"),
        (lambda: plotting.plot_gain({}), "paths: expected a dict with at least one entry"),
        (lambda: plotting.plot_gain({"a": ()}), r"paths\['a'\]: expected at least one value"),
        (lambda: plotting.plot_random_designs([np.nan], {"a": 1.0}), "values: expected at least one finite value"),
        (lambda: plotting.plot_random_designs([1.0], {}), "found: expected a dict with at least one entry"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()

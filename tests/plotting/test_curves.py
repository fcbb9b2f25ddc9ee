"""Curves of plain arrays: what is drawn, on which scale, with which words; and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from hippylib_dino.errors import InputError
from hippylib_dino.plotting import plot_eigenvalues, plot_history, plot_observables, plot_spectra, save

HISTORY = {
    "loss": [1.0, 0.5, 0.2],
    "val_loss": [1.1, 0.6, 0.3],
    "jacobian_error": [0.8, 0.4, 0.1],
    "val_jacobian_error": [0.9, 0.5, 0.2],
    "learning_rate": [1e-3, 5e-4, 1e-4],
}


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_import_is_lazy():
    code = (
        "import sys, hippylib_dino.plotting as p\n"
        "assert not {'matplotlib', 'dolfin'} & set(sys.modules), 'not lazy'\n"
        "p.plot_spectra({'a': [1.0]})\n"
        "assert not {'matplotlib.pyplot', 'dolfin', 'hippylib', 'keras'} & set(sys.modules), 'imports too much'"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=900, cwd=root, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


def test_every_public_name_resolves():
    import hippylib_dino.plotting as plotting

    assert all(callable(getattr(plotting, name)) for name in plotting.__all__)
    with pytest.raises(AttributeError, match="no_such_plot"):
        plotting.no_such_plot  # noqa: B018


def test_spectra_count_from_one_on_a_log_axis():
    spectra = {"derivative": 0.5 ** np.arange(40), "kle": 0.9 ** np.arange(10)}
    (axes,) = plot_spectra(spectra).axes
    assert axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("index", "eigenvalue")
    assert legend(axes) == ["derivative", "kle"]
    for label, values in spectra.items():
        x, y = lines(axes)[label].get_data()
        np.testing.assert_array_equal(x, np.arange(1, len(values) + 1))
        np.testing.assert_array_equal(y, values)


def test_values_that_a_log_axis_cannot_show_are_counted():
    (axes,) = plot_spectra({"pod": [1.0, 0.0, 0.1, -1e-20, np.nan]}).axes
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), [1, 3])
    assert legend(axes) == ["pod (3 not shown: ≤ 0 or nan)"]


def test_history_pairs_training_and_validation():
    main, rate = plot_history(HISTORY).axes
    drawn = lines(main)
    assert set(drawn) == set(HISTORY) - {"learning_rate"}
    for quantity in ("loss", "jacobian_error"):
        training, validation = drawn[quantity], drawn["val_" + quantity]
        assert training.get_color() == validation.get_color()
        assert (training.get_linestyle(), validation.get_linestyle()) == ("--", "-")
        np.testing.assert_array_equal(training.get_xdata(), [1, 2, 3])
        np.testing.assert_array_equal(validation.get_ydata(), HISTORY["val_" + quantity])
    assert to_hex(drawn["loss"].get_color()) != to_hex(drawn["jacobian_error"].get_color())
    assert legend(main) == ["loss", "jacobian error", "training", "validation"]
    assert main.get_yscale() == rate.get_yscale() == "log"
    assert (rate.get_xlabel(), rate.get_ylabel()) == ("epoch", "learning rate")
    np.testing.assert_array_equal(rate.lines[0].get_ydata(), HISTORY["learning_rate"])
    assert rate.get_position().height < main.get_position().height / 2
    assert rate.get_xlim() == main.get_xlim()


def test_history_without_learning_rate_or_validation():
    (axes,) = plot_history({"loss": [1.0, 0.5]}).axes
    assert axes.get_xlabel() == "epoch"
    assert legend(axes) == ["loss"]


def test_history_of_the_learning_rate_alone():
    (axes,) = plot_history({"learning_rate": [1e-3, 1e-4]}).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "learning rate")


def test_a_diverged_epoch_is_counted():
    main = plot_history({"loss": [1.0, np.nan], "val_loss": [1.0, np.inf]}).axes[0]
    assert legend(main)[0] == "loss (2 not shown: ≤ 0 or nan)"


def test_epochs_without_validation_are_joined():
    nan = np.nan
    main = plot_history({"loss": [1.0, 0.5, 0.3, 0.2], "val_loss": [nan, 0.6, nan, 0.3]}).axes[0]
    np.testing.assert_array_equal(lines(main)["val_loss"].get_data(), [[2, 4], [0.6, 0.3]])
    assert legend(main)[0] == "loss"


@pytest.fixture
def observables():
    rng = np.random.default_rng(0)
    true = 1.0 + rng.standard_normal((30, 4))
    return true, true + 0.05 * rng.standard_normal(true.shape)


def test_observables_print_the_error_of_the_formula(observables):
    true, predicted = observables
    by_hand = [sum((q - p) ** 2) / sum(q**2) for q, p in zip(true, predicted, strict=True)]
    scatter, histogram = plot_observables(true, predicted).axes
    assert scatter.get_title() == f"relative $L^2$ error {(sum(by_hand) / 30) ** 0.5:.3g}"
    np.testing.assert_array_equal(scatter.collections[0].get_offsets(), np.c_[true.ravel(), predicted.ravel()])
    (diagonal,) = scatter.lines
    np.testing.assert_array_equal(*diagonal.get_data())
    assert scatter.get_xlim() == scatter.get_ylim()
    assert scatter.get_aspect() == 1.0
    assert (scatter.get_xlabel(), scatter.get_ylabel()) == ("true observable", "predicted observable")
    assert sum(bar.get_height() for bar in histogram.patches) == true.size
    assert histogram.get_xlabel() == "predicted − true"


def test_error_in_the_title_on_numbers_known_by_hand():
    # errors 0.1 and 0.2: sqrt((0.01 + 0.04) / 2)
    figure = plot_observables([[3.0, 4.0], [0.0, 10.0]], [[3.0, 4.5], [2.0, 10.0]])
    assert figure.axes[0].get_title() == "relative $L^2$ error 0.158"


@pytest.mark.parametrize("noise_std", [0.5, [0.5, 0.5, 0.5, 0.5], [0.1, 1.0, 10.0, 0.5]])
def test_residuals_in_noise_deviations(observables, noise_std):
    true, predicted = observables
    histogram = plot_observables(true, predicted, noise_std).axes[1]
    whitened = (predicted - true) / np.asarray(noise_std)
    assert histogram.get_title() == f"root mean square residual {np.sqrt(np.mean(whitened**2)):.3g} noise std"
    assert histogram.get_xlabel() == "predicted − true (noise standard deviations)"
    assert legend(histogram) == ["within one noise standard deviation"]
    low, high = histogram.get_xlim()
    assert low < whitened.min()
    assert whitened.max() < high < 2 * np.abs(whitened).max()


def test_a_perfect_prediction_draws(observables):
    true, _ = observables
    assert plot_observables(true, true, 0.1).axes[0].get_title() == "relative $L^2$ error 0"


def test_two_spectra_get_a_difference_panel():
    pde, surrogate = np.array([100.0, 10.0, 0.5, 0.1]), np.array([101.0, 9.0, 0.5])
    main, difference = plot_eigenvalues({"PDE": pde, "surrogate": surrogate}).axes
    assert main.get_yscale() == difference.get_yscale() == "log"
    assert legend(main) == ["PDE, 2 above 1", "surrogate, 2 above 1", "1: data-informed above"]
    np.testing.assert_array_equal(lines(main)["1: data-informed above"].get_ydata(), [1.0, 1.0])
    (line,) = difference.lines
    np.testing.assert_array_equal(line.get_xdata(), [1, 2])  # the third pair is equal: no point on a log axis
    np.testing.assert_allclose(line.get_ydata(), [0.01, 0.1])
    assert difference.get_xlabel() == "index"
    assert difference.get_xlim() == main.get_xlim()


def test_equal_spectra_are_called_identical():
    difference = plot_eigenvalues({"PDE": [2.0, 1.0], "surrogate": [2.0, 1.0, 0.5]}).axes[1]
    assert [text.get_text() for text in difference.texts] == ["identical"]


@pytest.mark.parametrize("count", [1, 3])
def test_other_counts_get_one_panel(count):
    (axes,) = plot_eigenvalues({str(i): [2.0, 0.5 + i] for i in range(count)}).axes
    assert len(axes.lines) == count + 1
    assert axes.get_xlabel() == "index"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plot_spectra({}), ["spectra", "at least one entry", "empty", "Pass"]),
        (lambda: plot_spectra([1.0]), ["spectra", "dict", "list", "Pass"]),
        (lambda: plot_spectra({"kle": np.ones((2, 3))}), ["spectra['kle']", "(n,)", "(2, 3)", "Pass"]),
        (lambda: plot_eigenvalues({"PDE": []}), ["spectra['PDE']", "n > 0", "(0,)", "Pass"]),
        (lambda: plot_history({}), ["history", "at least one entry", "empty", "Pass"]),
        (lambda: plot_history({"loss": [1.0, 2.0], "val_loss": [1.0]}), ["history['val_loss']", "(2,)", "(1,)", "nan"]),
        (lambda: plot_observables([1.0, 2.0], [1.0, 2.0]), ["true", "(n, dQ)", "(2,)", "q[None, :]"]),
        (lambda: plot_observables(np.ones((2, 3)), np.ones((3, 2))), ["predicted", "(2, 3)", "(3, 2)", "Predict"]),
        (
            lambda: plot_observables([[1.0, 0.0], [0.0, 0.0]], np.ones((2, 2))),
            ["true", "zero at index 1", "Leave these"],
        ),
        (lambda: plot_observables([[1.0]], [[np.nan]]), ["predicted", "finite", "1 that are nan", "Leave out"]),
        (lambda: plot_observables([[1.0, 1.0]], [[1.0, 1.0]], [1.0]), ["noise_std", "(2,)", "(1,)", "np.sqrt"]),
        (lambda: plot_observables([[1.0]], [[1.0]], -1.0), ["noise_std", "positive", "-1.0", "np.sqrt"]),
    ],
)
def test_wrong_arguments_are_named(call, words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(words[0] + ":")
    assert all(word.lower() in message.lower() for word in words), message


def test_arguments_are_not_changed():
    history = {key: list(values) for key, values in HISTORY.items()}
    plot_history(history)
    assert history == HISTORY


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_save(tmp_path, suffix):
    path = tmp_path / f"spectra.{suffix}"
    save(plot_spectra({"a": [1.0, 0.5]}), path)
    assert path.stat().st_size > 1000

"""Formulations: gradients against finite differences, sketches without bias, truncation against NumPy's SVD."""

import numpy as np
import pytest

from hippylib_dino.errors import InputError
from hippylib_dino.network import ReducedDense
from hippylib_dino.network.backend import keras
from hippylib_dino.network.batches import Batches
from hippylib_dino.network.formulations import (
    FORMULATIONS,
    H1,
    L2,
    SketchedH1,
    TruncatedH1,
    formulation_name,
    get_formulation,
)
from hippylib_dino.network.training import _compile

ALL = {
    "l2": L2(),
    "h1 reverse": H1(0.7, sweep="reverse"),
    "h1 forward": H1(0.7, sweep="forward"),
    "truncated": TruncatedH1(0.7, rank=3),
    "sketched reverse": SketchedH1(0.7, n_directions=2, sweep="reverse"),
    "sketched forward": SketchedH1(0.7, n_directions=2, sweep="forward"),
}

SPREAD = 70.0


@pytest.fixture
def small(confusion_dataset):
    """Samples of ranks 6 x 5: small enough for finite differences of every weight."""
    return confusion_dataset.truncate(6, 5).split("train", 8)


def _loss(latent, samples, directions, formulation, scale):
    """The formula of the module, in float64, with the directions that a batch was given."""
    values, jacobians = latent.value_and_jacobian(samples.x)
    loss = ((samples.y - values) ** 2).sum(axis=1).mean() / SPREAD
    if isinstance(formulation, L2):
        return loss
    error = samples.reduced_jacobian - jacobians
    error = directions["rows"] @ error if "rows" in directions else error
    error = error @ directions["columns"].swapaxes(1, 2) if "columns" in directions else error
    squares = (error**2).sum(axis=(1, 2)) / samples.jacobian_energy
    return loss + formulation.jacobian_weight * scale * squares.mean()


@pytest.mark.backends
@pytest.mark.parametrize("name", ALL)
def test_gradient_of_the_loss_that_is_trained(name, small, rng):
    """A step of gradient descent with rate 1 moves the weights by the gradient of the formula."""
    formulation = ALL[name]
    network = ReducedDense(6, 5, hidden=(4,), activation="tanh", output_scale=float(np.sqrt((small.y**2).mean())))
    model = network.keras_model(0, formulation.outputs(6, 5))
    weights = [rng.standard_normal(w.shape) * 0.4 for w in model.get_weights()]
    model.set_weights(weights)
    weights = [w.astype(float) for w in model.get_weights()]  # as float32 holds them
    _compile(model, formulation, keras.optimizers.SGD(1.0))
    inputs, truth, sample_weights = Batches(small, small.x, formulation, SPREAD, len(small))[0]
    directions = inputs if isinstance(inputs, dict) else {}
    scale = {"sketched reverse": 5 / 2, "sketched forward": 6 / 2}.get(name, 1.0)

    loss = lambda at: _loss(network.latent_map(at), small, directions, formulation, scale)  # noqa: E731
    logs = model.train_on_batch(inputs, truth, sample_weight=sample_weights, return_dict=True)
    assert float(logs["loss"]) == pytest.approx(loss(weights), rel=1e-5)

    gradient = [w - after for w, after in zip(weights, model.get_weights(), strict=True)]
    largest = max(np.abs(g).max() for g in gradient)
    for k, w in enumerate(weights):
        slopes = np.empty(w.shape)
        for i in np.ndindex(w.shape):
            sides = []
            for h in (1e-5, -1e-5):
                moved = w.copy()
                moved[i] += h
                sides.append(loss([*weights[:k], moved, *weights[k + 1 :]]))
            slopes[i] = (sides[0] - sides[1]) / 2e-5
        np.testing.assert_allclose(gradient[k], slopes, rtol=0, atol=1e-5 * largest)


@pytest.mark.backends
def test_both_sweeps_give_the_same_jacobian(small):
    network = ReducedDense(6, 5, hidden=(7,))
    forward, reverse = (
        network.keras_model(4, H1(sweep=sweep).outputs(6, 5)).predict(small.x, verbose=0)["jacobian"]
        for sweep in ("forward", "reverse")
    )
    np.testing.assert_allclose(forward, reverse, rtol=1e-5, atol=2e-6)


# ---- sketches ----------------------------------------------------------------------------

DRAWS = 4000
QUANTILE = 3.89  # of |z|, level 1e-4


def _sketched(error, formulation, seed):
    """s ‖W E Vᵀ‖² of so many draws, with E the error of a Jacobian: all is linear in it."""
    compared = formulation.compare(np.broadcast_to(error, (DRAWS, *error.shape)), np.random.default_rng(seed))
    return compared.scale * (compared.jacobian**2).sum(axis=(1, 2))


def _z(losses, expected):
    return (losses.mean() - expected) / (losses.std(ddof=1) / np.sqrt(len(losses)))


@pytest.mark.parametrize("sweep", ["reverse", "forward"])
@pytest.mark.parametrize("n_directions", [1, 2, 4])
@pytest.mark.parametrize("shape", [(5, 8), (8, 5)])
def test_sketched_loss_has_no_bias(shape, n_directions, sweep):
    """z-test of the mean of 4000 draws at level 1e-4; a scale that is off by 5 % is rejected."""
    # one row and one column stand out, which sketches that favour some directions would get wrong
    error = np.random.default_rng(1).standard_normal(shape)
    error[0] *= 3.0
    error[:, -1] *= 3.0
    losses, whole = _sketched(error, SketchedH1(n_directions=n_directions, sweep=sweep), seed=2), (error**2).sum()
    assert losses.std() > 0.05 * whole
    assert abs(_z(losses, whole)) < QUANTILE
    if n_directions == 4:  # otherwise 4000 draws do not see it
        assert abs(_z(1.05 * losses, whole)) > QUANTILE


@pytest.mark.parametrize(("sweep", "rank"), [("reverse", 5), ("forward", 8)])
def test_all_directions_are_the_whole_loss(sweep, rank, rng):
    error = rng.standard_normal((5, 8))
    losses = _sketched(error, SketchedH1(n_directions=rank, sweep=sweep), seed=0)
    np.testing.assert_allclose(losses, (error**2).sum(), rtol=1e-12)


def test_sketches_are_orthonormal_and_differ_from_sample_to_sample(rng):
    compared = SketchedH1(n_directions=3).compare(rng.standard_normal((6, 5, 8)), rng)
    gram = compared.rows @ compared.rows.swapaxes(1, 2)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(3), gram.shape), atol=1e-14)
    assert len({rows.tobytes() for rows in compared.rows}) == 6


def test_sketch_takes_the_side_with_the_smaller_rank(rng):
    wide, tall = (SketchedH1(n_directions=2).compare(rng.standard_normal((1, *s)), rng) for s in ((5, 8), (8, 5)))
    assert wide.rows.shape == (1, 2, 5)
    assert wide.columns is None
    assert tall.columns.shape == (1, 2, 5)
    assert tall.rows is None


# ---- truncation --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 8), (8, 5)])
def test_truncation_is_numpys_svd(shape, rng):
    J = rng.standard_normal((3, *shape))
    compared = TruncatedH1(rank=2).compare(J, rng)
    U, s, Vt = np.linalg.svd(J, full_matrices=False)
    np.testing.assert_allclose(compared.jacobian, s[:, :2, None] * np.eye(2), atol=1e-12 * s.max())
    # singular vectors up to their signs, which cancel in the product
    leading = (U[:, :, :2] * s[:, None, :2]) @ Vt[:, :2]
    np.testing.assert_allclose(
        compared.rows.swapaxes(1, 2) @ compared.jacobian @ compared.columns, leading, atol=1e-12 * s.max()
    )
    np.testing.assert_allclose(compared.rows @ J @ compared.columns.swapaxes(1, 2), compared.jacobian, atol=1e-12)


def test_full_truncation_of_a_square_problem_is_h1(rng):
    J, error = rng.standard_normal((2, 6, 5, 5))
    compared = TruncatedH1(rank=5).compare(J, rng)
    seen = compared.rows @ error @ compared.columns.swapaxes(1, 2)
    np.testing.assert_allclose((seen**2).sum(axis=(1, 2)), (error**2).sum(axis=(1, 2)), rtol=1e-10)


@pytest.mark.parametrize("smallest", [1e-2, 1e-5, 0.0])
def test_truncation_in_float32_of_a_decaying_spectrum(smallest, rng):
    """Batches are in float32, and Jacobians of PDEs have spectra that decay by orders of magnitude."""
    U, V = (np.linalg.qr(rng.standard_normal((dim, 6)))[0] for dim in (6, 8))
    s = np.array([1.0, 0.5, 0.1, smallest, smallest, smallest])
    J = ((U * s) @ V.T)[None].astype("float32")
    compared = TruncatedH1(rank=6).compare(J, rng)
    assert np.abs(compared.columns).max() < 1.1
    np.testing.assert_allclose(np.linalg.norm(compared.columns, axis=2), 1.0, rtol=1e-3)
    np.testing.assert_allclose(compared.rows @ J @ compared.columns.swapaxes(1, 2), compared.jacobian, atol=2e-6)


# ---- names and bad input -----------------------------------------------------------------


def test_names_and_instances():
    for name, kind in FORMULATIONS.items():
        assert get_formulation(name) == kind()
        assert formulation_name(kind()) == name
    given = SketchedH1(2.0, n_directions=3)
    assert get_formulation(given) is given
    config = {"kind": "SketchedH1", "jacobian_weight": 2.0, "n_directions": 3, "sweep": "auto"}
    assert given.get_config() == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: get_formulation("h2"), r"formulation: expected one of \('l2', 'h1', .*\), .* got 'h2'"),
        (lambda: H1(0.0), 'jacobian_weight: expected > 0, got 0.0; for values alone use formulation="l2"'),
        (lambda: H1(float("nan")), "jacobian_weight: expected > 0, got nan"),
        (lambda: H1(sweep="sideways"), r"sweep: expected one of \('auto', .*\), got 'sideways'"),
        (lambda: SketchedH1(sweep="up"), "sweep: expected one of"),
        (lambda: TruncatedH1(rank=6).check(8, 5), r"rank: expected 1 \.\. 5 singular vectors .* 5 x 8, got 6"),
        (lambda: TruncatedH1(rank=0).check(8, 5), r"rank: expected 1 \.\. 5 .* got 0"),
        (lambda: SketchedH1(n_directions=6).check(8, 5), r"n_directions: expected 1 \.\. 5, the rank of the outputs"),
        (
            lambda: SketchedH1(n_directions=9, sweep="forward").check(8, 5),
            r"n_directions: expected 1 \.\. 8, the rank of the inputs, got 9",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()

"""Ensembles: the mean of members, and a spread that predicts their error."""

import json

import numpy as np
import pytest
from scipy.stats import t as student

import hippylib_dino as hd
from hippylib_dino.data.dataset import Samples
from hippylib_dino.errors import InputError, TrainingError
from hippylib_dino.network import Ensemble, Polynomial, ReducedDense, ensemble_of
from hippylib_dino.network.architecture import architecture_from_config
from hippylib_dino.network.ensemble import spread_ratio
from hippylib_dino.network.reliability import LEVELS
from hippylib_dino.plotting import plot_calibration
from hippylib_dino.reduction.basis import Basis

TINY = {"epochs": 4, "hidden": (16,), "n_train": 32, "progress": False}


@pytest.fixture(scope="module")
def ensemble(confusion_dataset):
    return hd.train_ensemble(confusion_dataset, "l2", 3, seed=5, **TINY)


@pytest.fixture(params=[ReducedDense(5, 4, hidden=(7,), input_scale=(1.0,) * 5), Polynomial(5, 4, degree=2)])
def architecture(request):
    return Ensemble(5, 4, member=request.param, n_members=3, spread_scale=1.7)


@pytest.fixture
def weights(architecture, rng):
    return [0.5 * rng.standard_normal(shape) for shape in architecture.weight_shapes()]


@pytest.fixture
def members(architecture, weights):
    n = len(weights) // 3
    return [architecture.member.latent_map(weights[k * n : (k + 1) * n]) for k in range(3)]


def test_config_round_trip(architecture):
    assert architecture_from_config(json.loads(json.dumps(architecture.get_config()))) == architecture


def test_map_is_the_mean_of_the_members(architecture, weights, members, rng):
    latent, x = architecture.latent_map(weights), rng.standard_normal((6, 5))
    values = np.array([f.value(x) for f in members])
    np.testing.assert_allclose(latent.value(x), values.mean(axis=0))
    np.testing.assert_allclose(latent.spread(x), 1.7 * values.std(axis=0, ddof=1))
    value, J = latent.value_and_jacobian(x)
    np.testing.assert_allclose(value, latent.value(x))
    np.testing.assert_allclose(J, np.mean([f.jacobian(x) for f in members], axis=0))
    assert latent.spread(x[0]).shape == (4,)
    np.testing.assert_allclose(latent.spread(x)[0], latent.spread(x[0]))
    np.testing.assert_allclose(J[1], latent.jacobian(x[1]))


def test_derivatives_against_central_differences(architecture, weights, rng):
    latent, h = architecture.latent_map(weights), 1e-5
    x, v, w = rng.standard_normal(5), rng.standard_normal(5), rng.standard_normal(4)
    J = latent.jacobian(x)
    np.testing.assert_allclose(J @ v, (latent.value(x + h * v) - latent.value(x - h * v)) / (2 * h), rtol=1e-6)
    np.testing.assert_allclose(latent.jvp(x, v), J @ v)
    np.testing.assert_allclose(latent.vjp(x, w), J.T @ w)
    difference = (latent.jacobian(x + h * v) - latent.jacobian(x - h * v)).T @ w / (2 * h)
    np.testing.assert_allclose(latent.hessian_action(x, w, v), difference, rtol=1e-5, atol=1e-7)
    H = np.array([latent.hessian_action(x, w, e) for e in np.eye(5)])
    np.testing.assert_allclose(H, H.T, rtol=1e-11, atol=1e-12)


def test_members_are_those_of_single_trainings(ensemble, confusion_dataset, rng):
    x = rng.standard_normal(24)
    alone = hd.train(confusion_dataset, "l2", seed=6, **TINY)
    np.testing.assert_array_equal(ensemble.latent_map.members[1].value(x), alone.latent_map.value(x))
    assert [record["seed"] for record in ensemble.training["members"]] == [5, 6, 7]
    assert "Ensemble" in repr(ensemble)
    assert "n_train=32" in repr(ensemble)


def test_save_load_keeps_the_spread(ensemble, tmp_path, rng):
    ensemble.save(tmp_path / "a.dino")
    again, x = hd.DINO.load(tmp_path / "a.dino"), rng.standard_normal((3, 24))
    np.testing.assert_array_equal(again.latent_map.spread(x), ensemble.latent_map.spread(x))
    np.testing.assert_array_equal(again.latent_map.jacobian(x), ensemble.latent_map.jacobian(x))
    assert again.architecture == ensemble.architecture
    assert again.training == ensemble.training


def test_spread_is_calibrated_on_the_validation_samples(ensemble, confusion_dataset):
    report = hd.calibration(ensemble, confusion_dataset, "validation")
    assert report.scale == pytest.approx(1.0)
    assert (report.error**2).sum() == pytest.approx((report.spread**2).sum())
    assert report.degrees_of_freedom == 2


def test_calibration_by_its_definition(ensemble, confusion_dataset):
    report = hd.calibration(ensemble, confusion_dataset, levels=(0.5, 0.9))
    samples, latent = confusion_dataset.split("test"), ensemble.latent_map
    error, spread = np.abs(samples.y - latent.value(samples.x)), latent.spread(samples.x)
    expected = [(error < student.ppf(0.5 + p / 2, 2) * spread).mean() for p in (0.5, 0.9)]
    np.testing.assert_allclose(report.coverage, expected)
    assert report.levels == (0.5, 0.9)
    correlation = np.corrcoef(np.linalg.norm(spread, axis=1), np.linalg.norm(error, axis=1))[0, 1]
    assert report.correlation == pytest.approx(correlation)


class _Part:
    """As much of a dataset as ensembles read."""

    def __init__(self, dino, samples):
        self.input_basis, self.output_basis, self._samples = dino.input_basis, dino.output_basis, samples
        self.fingerprint = dino.fingerprint

    def split(self, part, n=None, *, jacobians=True):
        return self._samples


def _samples(x, y):
    nothing = np.zeros(len(x))
    return Samples(np.arange(len(x)), x, y, nothing, nothing, nothing)


def _trial(rng, n_selection):
    """Coverage on fresh samples, of an ensemble whose epoch the first `n_selection` of 16 + 16 samples chose.

    The truth is zero.  At each of 50 epochs all members share an error, drawn anew, and have one of their own: both are
    Gaussian, and independent, so that Student's intervals are exact with the right scale.
    """
    rank, epochs, n_members = 16, 50, 4
    shared, own = rng.standard_normal((epochs, 1, rank)), rng.standard_normal((n_members, rank))
    x = rng.standard_normal((32, rank))
    errors = x[:16] @ (shared[:, 0] + own.mean(axis=0)).T
    chosen = shared[(errors**2).sum(axis=0).argmin()] + own
    bases = [Basis(np.eye(rank), np.eye(rank), np.zeros(rank), np.ones(rank), "kle", "prior precision")]
    bases.append(Basis(np.eye(1), np.eye(1), np.zeros(1), np.ones(1), "pod", "noise precision"))
    record = {"n_validation": 16, "n_selection": n_selection}
    members = [
        hd.DINO(Polynomial(rank, 1), [np.zeros(1), row[None]], *bases, fingerprint={}, training=record)
        for row in chosen
    ]
    # what is said to have chosen nothing is all that the second case has
    held_out = x if n_selection else x[:16]
    dino = ensemble_of(members, _Part(members[0], _samples(held_out, np.zeros((len(held_out), 1)))))
    fresh = rng.standard_normal((100, rank))
    return hd.calibration(dino, _Part(dino, _samples(fresh, np.zeros((100, 1))))).coverage


def test_scaled_on_samples_that_chose_nothing_the_spread_has_nominal_coverage(rng):
    levels = np.array(LEVELS)
    np.testing.assert_allclose(np.mean([_trial(rng, 16) for _ in range(200)], axis=0), levels, atol=0.04)
    flattered = np.mean([_trial(rng, 0) for _ in range(200)], axis=0)
    assert (flattered < levels - [0.08, 0.08, 0.06, 0.03]).all()


def test_samples_that_chose_the_weights_do_not_scale_the_spread(confusion_dataset):
    options = {**TINY, "keep": "best"}
    dino = hd.train_ensemble(confusion_dataset, "l2", 2, **options)
    assert [record["n_selection"] for record in dino.training["members"]] == [4, 4]
    held_out = confusion_dataset.split("validation")
    assert spread_ratio(dino.latent_map, held_out.x[4:], held_out.y[4:]) == pytest.approx(1.0)
    every_one = hd.train(confusion_dataset, "l2", **options)
    with pytest.raises(InputError, match="got 8, of which 8 chose the weights of members"):
        ensemble_of([every_one, every_one], confusion_dataset)
    del every_one.training["n_selection"]  # as files made earlier
    with pytest.raises(InputError, match="of which 8 chose"):
        ensemble_of([every_one, every_one], confusion_dataset)


@pytest.mark.parametrize("n_members", [2, 3, 6])
def test_gaussian_members_and_errors_have_nominal_coverage(n_members, rng):
    """Affine maps drawn from one distribution as members, the truth from it as well: Student's intervals are exact.

    On average over the draws of the members, which is why there are many outputs.
    """
    rank, n = 4000, 20
    sizes = np.exp(rng.standard_normal(rank))
    weights = []
    for _ in range(n_members):
        weights += [sizes * rng.standard_normal(rank), sizes[:, None] * rng.standard_normal((rank, 1))]
    x = rng.standard_normal((n, 1))
    y = sizes * np.sqrt(1 + x**2) * rng.standard_normal((n, rank))
    samples = _samples(x, y)
    bases = [Basis(np.eye(1), np.eye(1), np.zeros(1), np.ones(1), "kle", "prior precision")]
    one = np.zeros((1, rank))
    bases.append(Basis(one, one, np.zeros(1), np.ones(rank), "pod", "noise precision"))
    architecture = Ensemble(1, rank, Polynomial(1, rank), n_members, spread_scale=(1 + 1 / n_members) ** 0.5)
    dino = hd.DINO(architecture, weights, *bases, fingerprint={})
    report = hd.calibration(dino, _Part(dino, samples))
    np.testing.assert_allclose(report.coverage, report.levels, atol=0.03)
    assert report.correlation > 0.8


def test_wrong_arguments_are_named(ensemble, confusion_dino, confusion_dataset):
    with pytest.raises(InputError, match=r"n_members: expected at least 2, got 1; for one network use hd.train"):
        hd.train_ensemble(confusion_dataset, n_members=1)
    with pytest.raises(InputError, match="spread_scale: expected a finite number > 0, got 0"):
        Ensemble(2, 2, Polynomial(2, 2), 2, spread_scale=0.0)
    with pytest.raises(InputError, match=r"member: expected ranks \(3, 2\), got \(2, 2\)"):
        Ensemble(3, 2, Polynomial(2, 2), 2)
    with pytest.raises(InputError, match="dino: expected an ensemble, got ReducedDense; train one by"):
        hd.calibration(confusion_dino, confusion_dataset)
    with pytest.raises(InputError, match=r"levels: expected nominal coverages between 0 and 1, got \(95,\)"):
        hd.calibration(ensemble, confusion_dataset, levels=(95,))
    with pytest.raises(TrainingError, match="members: agree exactly"):
        ensemble_of([confusion_dino, confusion_dino], confusion_dataset)
    with pytest.raises(InputError, match="members: expected one architecture"):
        ensemble_of([confusion_dino, hd.linear_model(confusion_dataset)], confusion_dataset)
    with pytest.raises(InputError, match="dataset: its input basis is not the one"):
        hd.calibration(ensemble, confusion_dataset.truncate(12, 30))
    with pytest.raises(TypeError, match="n_epochs"):
        hd.train_ensemble(confusion_dataset, n_epochs=3, progress=False)


def test_optimizer_instance_serves_every_member(confusion_dataset):
    from hippylib_dino.network.backend import keras

    dino = hd.train_ensemble(confusion_dataset, "l2", 2, optimizer=keras.optimizers.Adam(1e-3), **TINY)
    assert dino.architecture.n_members == 2


def test_each_member_logs_into_its_folder(confusion_dataset, tmp_path):
    hd.train_ensemble(confusion_dataset, "l2", 2, log=tmp_path, **TINY)
    assert all((tmp_path / f"member-{k}" / "history.csv").is_file() for k in range(2))


def test_ensemble_is_a_surrogate_model(ensemble, models):
    model = models["confusion"]
    surrogate = hd.SurrogateModel(ensemble, model.prior, model.misfit)
    m = hd.data.draw_parameter(model.prior, 3, 0)
    full = hd.modeling.DofOrder(model.prior.Vh).to_array(hd.modeling.owned_values(m))
    np.testing.assert_allclose(surrogate.evalObservable(m), ensemble.observable(full), rtol=1e-10)


def test_figure_shows_coverage_and_errors(ensemble, confusion_dataset):
    report = hd.calibration(ensemble, confusion_dataset)
    reliability, scatter = plot_calibration(report).axes
    (line,) = [entry for entry in reliability.lines if entry.get_label() == "ensemble"]
    np.testing.assert_array_equal(line.get_xdata(), report.levels)
    np.testing.assert_array_equal(line.get_ydata(), report.coverage)
    np.testing.assert_array_equal(scatter.collections[0].get_offsets(), np.column_stack([report.spread, report.error]))

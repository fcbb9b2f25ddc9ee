"""Maps that are no networks obey the laws of latent maps; regressions find what they should."""

import json
import sys

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError, LibraryError
from hippylib_dino.network import KernelRegression, Polynomial
from hippylib_dino.network.architecture import architecture_from_config

SCALE = (1.5, 0.3, 2.0, 1.0, 0.7)
ARCHITECTURES = {
    "affine": Polynomial(5, 4),
    "quadratic": Polynomial(5, 4, degree=2),
    "rbf": KernelRegression(5, 4, n_samples=9, length_scale=1.7, input_scale=SCALE),
    "linear kernel": KernelRegression(5, 4, n_samples=9, kernel="polynomial", degree=1, length_scale=2.0),
    "quadratic kernel": KernelRegression(5, 4, n_samples=9, kernel="polynomial", degree=2, input_scale=SCALE),
    "cubic kernel": KernelRegression(5, 4, n_samples=9, kernel="polynomial", degree=3, length_scale=2.0),
}


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return ARCHITECTURES[request.param]


@pytest.fixture
def latent(architecture, rng):
    return architecture.latent_map([rng.standard_normal(shape) for shape in architecture.weight_shapes()])


def test_config_round_trip(architecture):
    config = json.loads(json.dumps(architecture.get_config()))
    assert architecture_from_config(config) == architecture


def test_jacobian_against_central_differences(latent, rng):
    x, v, h = rng.standard_normal(5), rng.standard_normal(5), 1e-5
    J = latent.jacobian(x)
    difference = (latent.value(x + h * v) - latent.value(x - h * v)) / (2 * h)
    np.testing.assert_allclose(J @ v, difference, rtol=0, atol=1e-7 * np.abs(difference).max())
    assert np.abs(1.01 * J @ v - difference).max() > 1e-3 * np.abs(difference).max()


def test_hessian_against_central_differences(latent, rng):
    x, v, w, h = rng.standard_normal(5), rng.standard_normal(5), rng.standard_normal(4), 1e-5
    difference = (latent.jacobian(x + h * v) - latent.jacobian(x - h * v)).T @ w / (2 * h)
    np.testing.assert_allclose(latent.hessian_action(x, w, v), difference, rtol=1e-6, atol=1e-6)


def test_hessian_is_symmetric(latent, rng):
    x, w = rng.standard_normal(5), rng.standard_normal(4)
    H = np.array([latent.hessian_action(x, w, e) for e in np.eye(5)])
    np.testing.assert_allclose(H, H.T, rtol=1e-12, atol=1e-12)


def test_jacobian_jvp_vjp_agree(latent, rng):
    x, v, w = rng.standard_normal(5), rng.standard_normal(5), rng.standard_normal(4)
    value, J = latent.value_and_jacobian(x)
    np.testing.assert_allclose(value, latent.value(x), rtol=1e-12)
    np.testing.assert_allclose(latent.jvp(x, v), J @ v, rtol=1e-11)
    np.testing.assert_allclose(latent.vjp(x, w), J.T @ w, rtol=1e-11)


def test_batch_equals_loop(latent, rng):
    x = rng.standard_normal((2, 3, 5))
    value, J = latent.value_and_jacobian(x)
    assert (value.shape, J.shape) == ((2, 3, 4), (2, 3, 4, 5))
    for i in np.ndindex(2, 3):
        one, one_J = latent.value_and_jacobian(x[i])
        np.testing.assert_allclose(value[i], one, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(J[i], one_J, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(latent.value(x), value, rtol=1e-11, atol=1e-12)


def test_what_is_returned_is_the_callers(latent, rng):
    x = rng.standard_normal(5)
    value, J = latent.value_and_jacobian(x)
    before = value.copy(), J.copy()
    value[:], J[:] = 0.0, 0.0
    for a, b in zip(latent.value_and_jacobian(x), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_degree_two_is_its_own_definition(rng):
    c, J, H = rng.standard_normal(2), rng.standard_normal((2, 3)), rng.standard_normal((2, 3, 3))
    x = rng.standard_normal(3)
    value = Polynomial(3, 2, degree=2).latent_map([c, J, H]).value(x)
    np.testing.assert_allclose(value, c + J @ x + 0.5 * np.einsum("qij,i,j->q", H, x, x))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Polynomial(2, 2, degree=3), "degree: expected 1 or 2, got 3"),
        (lambda: KernelRegression(2, 2, 3, kernel="cubic"), r"kernel: expected one of \('rbf', 'polynomial'\)"),
        (lambda: KernelRegression(2, 2, 3, length_scale=0.0), "length_scale: expected > 0, got 0.0"),
        (lambda: KernelRegression(2, 2, 3, input_scale=(1.0,)), "input_scale: expected 2 factors"),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(InputError, match=message):
        build()


# ---- on data ---------------------------------------------------------------------------------


FITTED = ("linear", "rbf", "quadratic")


@pytest.fixture(scope="module")
def fitted(confusion_dataset):
    return {
        "linear": hd.linear_model(confusion_dataset),
        "rbf": hd.kernel_regression(confusion_dataset, progress=False),
        "quadratic": hd.kernel_regression(confusion_dataset, kernel="polynomial", degree=2, progress=False),
    }


@pytest.mark.parametrize("name", FITTED)
def test_save_load_gives_equal_output(fitted, name, tmp_path, rng):
    dino = fitted[name]
    dino.save(tmp_path / "a.dino")
    again, x = hd.DINO.load(tmp_path / "a.dino"), rng.standard_normal((3, 24))
    assert again.architecture == dino.architecture
    assert again.training == dino.training
    for a, b in zip(again.latent_map.value_and_jacobian(x), dino.latent_map.value_and_jacobian(x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_errors_fall_from_affine_to_curved(fitted, confusion_dataset):
    errors = {name: fitted[name].evaluate(confusion_dataset)["observable"] for name in FITTED}
    assert max(errors["rbf"], errors["quadratic"]) < errors["linear"] < 0.5


def test_linear_model_has_the_mean_jacobian_and_no_mean_residual(confusion_dataset):
    samples, dino = confusion_dataset.split("train", 12), hd.linear_model(confusion_dataset, n_train=12)
    value, J = dino.latent_map.value_and_jacobian(samples.x)
    np.testing.assert_allclose(J[3], samples.reduced_jacobian.mean(axis=0))
    np.testing.assert_allclose((value - samples.y).mean(axis=0), 0.0, atol=1e-10 * np.abs(samples.y).max())


def test_kernel_regression_is_scikit_learns(confusion_dataset, rng):
    from sklearn.kernel_ridge import KernelRidge

    samples, x = confusion_dataset.split("train"), rng.standard_normal((4, 24))
    for kernel, degree, gamma in (("rbf", None, 1 / 32), ("polynomial", 3, 1 / 16)):
        dino = hd.kernel_regression(
            confusion_dataset, kernel=kernel, length_scale=4.0, degree=degree, alpha=1e-3, progress=False
        )
        scale, mean = np.array(dino.architecture.input_scale), samples.y.mean(axis=0)
        ridge = KernelRidge(kernel=kernel, gamma=gamma, degree=degree or 1, coef0=1, alpha=1e-3)
        expected = ridge.fit(samples.x * scale, samples.y - mean).predict(x * scale) + mean
        np.testing.assert_allclose(dino.latent_map.value(x), expected, rtol=1e-8, atol=1e-8)


def test_kernel_regression_takes_the_best_of_its_candidates(fitted, confusion_dataset):
    chosen = fitted["rbf"].training
    worse = hd.kernel_regression(
        confusion_dataset, length_scale=chosen["length_scale"], alpha=1.0, progress=False
    ).training
    assert chosen["cross_validation_error"] < worse["cross_validation_error"]


def test_kernel_regression_is_deterministic(fitted, confusion_dataset):
    again = hd.kernel_regression(confusion_dataset, progress=False)
    assert again.training == fitted["rbf"].training
    assert all(np.array_equal(a, b) for a, b in zip(again.weights, fitted["rbf"].weights, strict=True))


def test_wrong_regressions_are_named(confusion_dataset, monkeypatch):
    with pytest.raises(InputError, match=r"kernel: expected one of \('rbf', 'polynomial'\), got 'matern'"):
        hd.kernel_regression(confusion_dataset, kernel="matern")
    with pytest.raises(InputError, match="degree: is of the polynomial kernel, got 2 for 'rbf'"):
        hd.kernel_regression(confusion_dataset, degree=2)
    with pytest.raises(InputError, match=r"n_folds: expected 2 \.\. 3, the number of training samples, got 5"):
        hd.kernel_regression(confusion_dataset, 3)
    monkeypatch.setitem(sys.modules, "sklearn.kernel_ridge", None)
    with pytest.raises(LibraryError, match=r"scikit-learn: cannot be imported.*pip install scikit-learn"):
        hd.kernel_regression(confusion_dataset, progress=False)


def test_neither_keras_nor_dolfin_is_imported(run_python, confusion_dataset, fitted, tmp_path):
    fitted["rbf"].save(tmp_path / "a.dino")
    code = f"""
import sys
import hippylib_dino as hd
dataset = hd.Dataset.open({str(confusion_dataset.path)!r})
hd.DINO.load({str(tmp_path / "a.dino")!r}).evaluate(dataset)
assert "sklearn" not in sys.modules
hd.linear_model(dataset)
hd.kernel_regression(dataset, length_scale=4.0, alpha=1e-3, progress=False)
assert not {{"keras", "tensorflow", "dolfin"}} & set(sys.modules)
"""
    run_python(code)


def test_memory_of_a_batch_does_not_grow_with_samples_times_ranks(rng):
    import tracemalloc

    architecture = KernelRegression(100, 50, n_samples=1024, length_scale=20.0)
    latent = architecture.latent_map([rng.standard_normal(shape) for shape in architecture.weight_shapes()])
    x = rng.standard_normal((64, 100))
    tracemalloc.start()
    latent.value_and_jacobian(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 64 * 50 * 100 * 8  # the Jacobians themselves and what one point takes

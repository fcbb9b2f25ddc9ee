"""Taylor expansion of the PDE in reduced coordinates."""

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import FingerprintError, InputError
from hippylib_dino.modeling.spaces import DofOrder
from hippylib_dino.modeling.verify import rate
from hippylib_dino.surrogate.expansion import _Derivatives

STEPS = 2.0 ** -np.arange(1, 6)


@pytest.fixture(scope="module")
def small(confusion_dataset):
    """Few directions, for few solves."""
    return confusion_dataset.truncate(6, 10)


@pytest.fixture(scope="module")
def quadratic(models, small):
    return hd.taylor_expansion(models["confusion"], small, order=2, progress=False)


@pytest.fixture
def derivatives(models, small):
    return _Derivatives(models["confusion"], small.input_basis, small.output_basis)


@pytest.mark.parametrize("order", [1, 2])
def test_linear_problem_is_its_expansion(models, linear_dino, order, rng):
    model = models["linear"]
    dino = hd.taylor_expansion(model, (linear_dino.input_basis, linear_dino.output_basis), order, progress=False)
    x = rng.standard_normal((4, 9))
    value, J = dino.latent_map.value_and_jacobian(x)
    expected, expected_J = linear_dino.latent_map.value_and_jacobian(x)
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-7 * np.abs(expected).max())
    np.testing.assert_allclose(J, expected_J, rtol=0, atol=1e-7 * np.abs(expected_J).max())
    surrogate = hd.SurrogateModel(dino, model.prior, model.misfit)
    m = hd.data.draw_parameter(model.prior, 4, 0)
    # nine observables, of which the bases of rank nine cut off nothing
    np.testing.assert_allclose(
        surrogate.evalObservable(m), model.evalObservable(m), rtol=0, atol=1e-7 * np.abs(model.evalObservable(m)).max()
    )


def test_value_and_jacobian_at_the_mean_are_the_pdes(models, small, quadratic):
    model = models["confusion"]
    q, J = model.evalObservable(model.prior.mean), model.jacobian(model.prior.mean).to_dense()
    value, latent = quadratic.latent_map.value_and_jacobian(np.zeros(6))
    out, order = small.output_basis, DofOrder(model.prior.Vh)
    np.testing.assert_allclose(value, out.encode(q), rtol=1e-9, atol=1e-9 * np.abs(out.encode(q)).max())
    expected = out.encoder.T @ J @ small.input_basis.decoder[order.owned]
    np.testing.assert_allclose(latent, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_taylor_rates(derivatives, models, small, quadratic, rng):
    """Remainders of the value fall with order 2 and 3, of the Jacobian with 1 and 2."""
    affine = hd.taylor_expansion(models["confusion"], small)
    v = rng.standard_normal(6)
    truth = [derivatives.at(h * v) for h in STEPS]
    for dino, order in ((affine, 1), (quadratic, 2)):
        found = [dino.latent_map.value_and_jacobian(h * v) for h in STEPS]
        remainders = [
            [np.linalg.norm(a - b) for (a, b) in ((f[k], t[k]) for f, t in zip(found, truth, strict=True))]
            for k in (0, 1)
        ]
        assert rate(remainders[0], STEPS) == pytest.approx(order + 1, abs=0.15)
        assert rate(remainders[1], STEPS) == pytest.approx(order, abs=0.15)


def test_wrong_second_derivative_has_the_lower_rate(derivatives, quadratic, rng):
    v = rng.standard_normal(6)
    wrong = quadratic.architecture.latent_map([*quadratic.weights[:2], 1.01 * quadratic.weights[2]])
    fine = 2.0 ** -np.arange(5, 9)
    remainders = [np.linalg.norm(wrong.value(h * v) - derivatives.at(h * v)[0]) for h in fine]
    assert rate(remainders, fine) < 2.7


def test_second_derivatives_are_symmetric_to_their_error(quadratic):
    assert quadratic.training["asymmetry"] < 1e-5
    H = quadratic.weights[2]
    np.testing.assert_array_equal(H, H.swapaxes(1, 2))


@pytest.mark.parametrize(("name", "output_basis"), [("state", "pod"), ("heat", "derivative")])
def test_whole_state_and_time_dependent_problems(models, tmp_path, name, output_basis):
    model = models[name]
    dataset = hd.generate(
        model, tmp_path / "data", n_samples=6, n_validation=1, n_test=1, input_rank=3, output_rank=4,
        output_basis=output_basis, progress=False,
    )  # fmt: skip
    dino = hd.taylor_expansion(model, dataset, order=2, progress=False)
    derivatives = _Derivatives(model, dataset.input_basis, dataset.output_basis)
    v = np.array([1.0, -0.5, 0.7])
    remainders = [np.linalg.norm(dino.latent_map.value(h * v) - derivatives.at(h * v)[0]) for h in STEPS]
    assert rate(remainders, STEPS) == pytest.approx(3.0, abs=0.2)


def test_expansion_predicts_held_out_samples(small, quadratic, models):
    affine = hd.taylor_expansion(models["confusion"], small)
    errors = [dino.evaluate(small)["reduced_jacobian"] for dino in (affine, quadratic)]
    assert errors[1] < errors[0]
    assert quadratic.fingerprint == small.fingerprint


def test_wrong_arguments_are_named(models, small):
    with pytest.raises(InputError, match="order: expected 1 or 2, got 3"):
        hd.taylor_expansion(models["confusion"], small, order=3)
    with pytest.raises(FingerprintError, match="bases: the dataset was made for another"):
        hd.taylor_expansion(models["linear"], small)
    with pytest.raises(InputError, match="bases: expected an input basis of dimension 81, got 289"):
        hd.taylor_expansion(models["linear"], (small.input_basis, small.output_basis))


def test_another_point_of_expansion_is_refused(models, small):
    import dataclasses

    moved = dataclasses.replace(small.input_basis, shift=small.input_basis.shift + 0.1)
    with pytest.raises(InputError, match="bases: expected the prior mean as shift"):
        hd.taylor_expansion(models["confusion"], (moved, small.output_basis))


PARTITIONED = """
import hippylib_dino as hd, numpy as np
from tests import problems
model = problems.confusion(hd.sample_communicator(None))
dataset = hd.Dataset.open({path!r}).truncate(3, 4)
dino = hd.taylor_expansion(model, (dataset.input_basis, dataset.output_basis), order=2, progress=False)
if model.prior.mean.mpi_comm().rank == 0:
    print(repr([np.round(w, 6).tolist() for w in dino.weights]))
"""


def test_partitioned_mesh_gives_the_same(models, confusion_dataset, run_python):
    import ast

    small = confusion_dataset.truncate(3, 4)
    here = hd.taylor_expansion(models["confusion"], small, order=2, progress=False)
    done = run_python(PARTITIONED.format(path=str(confusion_dataset.path)), ranks=2)
    there = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    for a, b in zip(here.weights, there, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max() + 1e-6)

"""The dense network on full parameters: its Jacobian in the input basis, and the DINO that it becomes."""

import dataclasses
import json

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError
from hippylib_dino.network import FullDense, ReducedDense
from hippylib_dino.network.architecture import architecture_from_config
from hippylib_dino.network.backend import keras
from hippylib_dino.network.full import EncodedDense

pytestmark = pytest.mark.backends


@pytest.fixture
def network(confusion_dataset):
    basis = confusion_dataset.input_basis
    return FullDense(24, 30, hidden=(9, 8), input_scale=0.7, output_scale=3.0, basis=basis)


@pytest.fixture
def weights(network, rng):
    *trained, _ = network.weight_shapes()
    return [*(rng.standard_normal(shape) * 0.3 for shape in trained), network.decoder()]


@pytest.fixture(scope="module")
def trained(confusion_dataset):
    network = FullDense(24, 30, hidden=(32, 32))
    return hd.train(confusion_dataset, "h1", architecture=network, epochs=60, batch_size=12, progress=False)


def test_config_round_trip(network):
    config = json.loads(json.dumps(network.get_config()))
    assert architecture_from_config(config) == network
    assert architecture_from_config(config).basis is None
    tail = EncodedDense(9, 30, hidden=(9, 8), output_scale=3.0)
    assert architecture_from_config(json.loads(json.dumps(tail.get_config()))) == tail


@pytest.mark.parametrize("outputs", [{}, {"rows": 2}, {"columns": 3}, {"rows": 2, "columns": 3}])
@pytest.mark.parametrize("sweep", ["reverse", "forward"])
def test_keras_jacobian_is_that_in_the_input_basis(network, weights, outputs, sweep, rng):
    """W ∂f Vᵀ at m = m̄ + Ψx, against the float64 map of x."""
    latent, x = network.latent_map(weights), rng.standard_normal((3, 24))
    given = {"x": x @ network.decoder().T}
    given.update({name: rng.standard_normal((3, k, {"rows": 30, "columns": 24}[name])) for name, k in outputs.items()})
    model = network.keras_model(outputs={**outputs, "sweep": sweep})
    assert [w.shape for w in model.get_weights()] == network.weight_shapes()
    np.testing.assert_allclose(model.get_weights()[-1], network.decoder(), rtol=1e-6)
    model.set_weights(weights)
    found = model(given if len(given) > 1 else given["x"])
    value, J = latent.value_and_jacobian(x)
    expected = given["rows"] @ J if "rows" in outputs else J
    expected = expected @ given["columns"].swapaxes(1, 2) if "columns" in outputs else expected
    np.testing.assert_allclose(found["observable"], value, rtol=1e-4, atol=1e-4 * np.abs(value).max())
    np.testing.assert_allclose(found["jacobian"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_keras_model_survives_kerass_own_saving(network, tmp_path, rng):
    model = network.keras_model(seed=2)
    model.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras")
    z = (rng.standard_normal((2, 24)) @ network.decoder().T).astype("float32")
    np.testing.assert_array_equal(model.predict(z, verbose=0)["jacobian"], again.predict(z, verbose=0)["jacobian"])


def test_finished_dino_is_the_same_map(network, weights, confusion_dataset):
    """F̂(m) of the DINO is what Keras gives for m; its encoder has a right inverse."""
    tail, rest, basis = network.finished(weights, confusion_dataset)
    dino = hd.DINO(tail, rest, basis, confusion_dataset.output_basis, confusion_dataset.fingerprint)
    samples = confusion_dataset.split("test")
    model = network.keras_model()
    model.set_weights(weights)
    z = network.inputs(samples, confusion_dataset)
    values = dino.latent_map.value(basis.encode(confusion_dataset.full("m", samples.index)))
    np.testing.assert_allclose(model(z)["observable"], values, rtol=1e-4, atol=1e-4 * np.abs(values).max())
    np.testing.assert_allclose(basis.encoder.T @ basis.decoder, np.eye(9), atol=1e-10)


@pytest.fixture
def pair(confusion_dataset, rng):
    """The same map with fixed weights: in the bases, and with a learned encoder that is a matrix times the basis."""
    reduced = ReducedDense(24, 30, hidden=(20, 16), output_scale=3.0)
    weights = [rng.standard_normal(shape) * 0.3 for shape in reduced.weight_shapes()]
    basis, common = confusion_dataset.input_basis, {"output_basis": confusion_dataset.output_basis}
    common["fingerprint"] = confusion_dataset.fingerprint
    encoder = basis.encoder @ weights[0]
    learned = dataclasses.replace(
        basis, encoder=encoder, decoder=np.linalg.pinv(encoder).T, kind="learned", inner_product="Euclidean"
    )
    tail = EncodedDense(20, 30, hidden=(20, 16), output_scale=3.0)
    return (
        hd.DINO(reduced, weights, input_basis=basis, **common),
        hd.DINO(tail, weights[1:], input_basis=learned, **common),
    )


def test_learned_encoder_that_is_the_basis_has_the_errors_of_the_reduced_network(confusion_dataset, pair):
    reduced, full = pair
    expected, found = reduced.evaluate(confusion_dataset), full.evaluate(confusion_dataset)
    assert "jacobian_dof_frobenius" in found
    assert found == pytest.approx(expected, rel=1e-8)


def test_what_the_jacobian_has_outside_the_basis_counts(models, confusion_dataset, trained):
    """Against ‖Γ^-½ Ĵ R^-½‖² by dense algebra, less its part in the basis."""
    from hippylib_dino.modeling.spaces import map_block

    prior, basis = models["confusion"].prior, confusion_dataset.input_basis
    samples = confusion_dataset.split("train")
    errors = trained.sample_errors(confusion_dataset, "train")
    encoder = trained.input_basis.encoder
    own = hd.modeling.DofOrder(prior.Vh).from_array(encoder)
    covariance = own.T @ map_block(prior.Rsolver.solve, prior.mean, prior.mean, own)
    inside = encoder.T @ basis.decoder
    _, latent = trained.predict(trained.input_basis.encode(confusion_dataset.full("m", samples.index)))
    exact = np.einsum("nqv,vw,nqw->n", latent, covariance - inside @ inside.T, latent)
    seen = errors["jacobian_network"] * samples.jacobian_energy
    dJ = latent @ inside - samples.reduced_jacobian
    spurious = seen - (dJ**2).sum(axis=(1, 2))
    assert exact.min() > 0
    np.testing.assert_allclose(spurious.mean(), exact.mean(), rtol=0.3)  # of 48 draws
    np.testing.assert_allclose(errors["jacobian"], errors["jacobian_network"] + errors["jacobian_truncation"])


def test_training_lowers_the_loss(trained):
    assert isinstance(trained.architecture, EncodedDense)
    assert trained.input_basis.kind == "learned"
    losses = np.array(trained.training["history"]["val_loss"])
    losses = losses[np.isfinite(losses)]
    assert losses.min() < 0.5 * losses[0]


def test_save_load_gives_equal_output(trained, confusion_dataset, tmp_path):
    trained.save(tmp_path / "full.dino")
    assert hd.DINO.load(tmp_path / "full.dino").evaluate(confusion_dataset) == trained.evaluate(confusion_dataset)


def test_surrogate_model_takes_it(pair, models):
    model = models["confusion"]
    surrogate = hd.SurrogateModel(pair[1], model.prior, model.misfit)
    m, direction = (hd.data.draw_parameter(model.prior, 1, i) for i in (1, 2))
    rates = hd.modeling.cost_rates(surrogate, m, direction)
    np.testing.assert_allclose(rates, (1, 2, 3), atol=0.15)


def test_dataset_without_full_parameters_is_named(models, tmp_path):
    dataset = hd.generate(
        models["linear"], tmp_path / "d", n_samples=4, n_validation=1, input_rank=3, output_rank=3, progress=False
    )
    with pytest.raises(InputError, match=r"FullDense takes full parameters, .* Generate it with store_parameters=True"):
        hd.train(dataset, "l2", architecture=FullDense(3, 3, hidden=(4,)), epochs=1, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": ()}, r"hidden: expected at least one layer, with positive widths, got \(\)"),
        ({"activation": "relu"}, "activation: expected one of"),
        ({"input_scale": 0.0}, "input_scale: expected > 0, got 0.0"),
        ({"hidden": (100_000,)}, "hidden: expected a first layer not wider than the .* parameters, got 100000"),
        ({"basis": None}, "basis: FullDense needs the dataset's input basis"),
    ],
)
def test_bad_arguments_are_named(network, arguments, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(network, **arguments).keras_model()
    if "hidden" not in arguments:
        return
    with pytest.raises(InputError, match=r"hidden: expected the first width to be the input rank 3, got \(4,\)"):
        EncodedDense(3, 2, hidden=(4,))

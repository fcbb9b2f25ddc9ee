from dataclasses import replace

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError
from hippylib_dino.network import FullDense, ReducedProduct, kernel_regression
from hippylib_dino.network.batches import Batches
from hippylib_dino.network.formulations import H1, L2, SketchedH1, TruncatedH1
from hippylib_dino.network.losses import RelativeError, SquaredNorm

QUICK = {"epochs": 40, "batch_size": 8, "hidden": (32, 32), "progress": False}


def norm(a):
    return (a**2).reshape(len(a), -1).sum(axis=1)


def test_each_part_is_compared_over_its_own_norm(control_dataset, rng):
    """The loss of a batch by hand, for any pair of weights."""
    samples = control_dataset.split("train")
    guess = samples.reduced_jacobian + 0.1 * rng.standard_normal(samples.reduced_jacobian.shape)
    dJ, E_z = guess - samples.reduced_jacobian, samples.control_jacobian_energy
    parts = norm(dJ[:, :, :10]) / (samples.jacobian_energy - E_z), norm(dJ[:, :, 10:]) / E_z
    for formulation, factors in (
        (H1(), (10, 10)),
        (H1(0.5), (0.5, 0.5)),
        (H1(0.0, control_weight=2.0), (0, 2)),
        (H1(3.0, control_weight=0.0), (3, 0)),
        (H1(1.0, control_weight=0.25), (1, 0.25)),
    ):
        weights = formulation.weights(samples)
        assert weights.shape == (64, 13)
        loss = float(SquaredNorm(by_column=True)(samples.reduced_jacobian, guess, sample_weight=weights))
        expected = sum(factor * part.mean() for factor, part in zip(factors, parts, strict=True))
        assert formulation.term_weight * loss == pytest.approx(expected, rel=1e-5)
        metric = RelativeError(by_column=True)
        metric.update_state(samples.reduced_jacobian, guess, weights)
        assert formulation.term_weight * float(metric.result()) ** 2 == pytest.approx(expected, rel=1e-5)


def test_batches_carry_the_weights(control_dataset):
    samples = control_dataset.split("train")
    assert Batches(samples, samples.x, H1(), 1.0, 8).by_column
    for formulation in (L2(), TruncatedH1(), SketchedH1()):
        assert not Batches(samples, samples.x, formulation, 1.0, 8).by_column
    _, _, weight = Batches(samples, samples.x, H1(), 1.0, 8)[0]
    assert weight["jacobian"].shape == (8, 13)


def test_either_part_can_be_switched_off(control_dataset):
    errors = {
        name: hd.train(control_dataset, formulation, seed=2, **QUICK).evaluate(control_dataset)
        for name, formulation in {
            "values": "l2",
            "both": "h1",
            "control": H1(0.0, control_weight=1.0),
            "parameter": H1(1.0, control_weight=0.0),
        }.items()
    }
    by_control = {name: e["control_jacobian_network"] for name, e in errors.items()}
    by_parameter = {name: e["parameter_jacobian_network"] for name, e in errors.items()}
    assert max(by_control["both"], by_control["control"]) < 0.85 * by_control["values"]
    assert by_control["control"] < by_control["parameter"]
    assert by_parameter["parameter"] < 0.85 * by_parameter["control"]
    assert by_parameter["both"] < 0.85 * by_parameter["values"]


@pytest.mark.parametrize("formulation", ["h1_truncated", "h1_sketched"])
def test_other_formulations_take_both_inputs_as_one(control_dataset, formulation):
    dino = hd.train(control_dataset, formulation, seed=2, **QUICK)
    assert dino.architecture.input_rank == 13
    assert dino.evaluate(control_dataset)["control_jacobian"] < 1


def test_errors_of_the_parts_add_up_to_the_whole(control_dataset, control_dino):
    squares, samples = control_dino.sample_errors(control_dataset), control_dataset.split("test")
    E_z = samples.control_jacobian_energy
    for kind in ("", "_truncation", "_network"):
        whole = squares[f"jacobian{kind}"] * samples.jacobian_energy
        parameter, control = (squares[f"{part}_jacobian{kind}"] for part in ("parameter", "control"))
        np.testing.assert_allclose(parameter * (samples.jacobian_energy - E_z) + control * E_z, whole, atol=1e-10)
    _, jacobians = control_dino.predict(samples.x)
    wrong = norm((jacobians - samples.reduced_jacobian)[:, :, 10:]) / E_z
    np.testing.assert_allclose(squares["control_jacobian_network"], wrong, rtol=1e-9)


def test_saved_and_loaded_it_is_the_same(control_dataset, control_dino, tmp_path):
    control_dino.save(tmp_path / "a.dino")
    again = hd.DINO.load(tmp_path / "a.dino")
    assert again.evaluate(control_dataset) == control_dino.evaluate(control_dataset)
    assert again.input_basis.parameter_block == (49, 10)
    assert again.control.get_config() == control_dataset.control.get_config()
    z = control_dataset.split("test").control
    np.testing.assert_allclose(again.latent(np.zeros(49), z)[:, 10:], control_dataset.control.encode(z))


def test_regression_takes_both_inputs(control_dataset):
    errors = kernel_regression(control_dataset).evaluate(control_dataset)
    assert errors["observable"] < 0.8
    assert errors["control_jacobian"] < 1


def test_a_basis_that_does_not_see_the_control_is_refused(control_dataset):
    class Blind(hd.Dataset):
        """Whose output basis is made without the control."""

        def split(self, *args, **kwargs):
            samples = super().split(*args, **kwargs)
            jacobian = samples.reduced_jacobian.copy()
            jacobian[:, :, 10:] *= 0.1
            return replace(samples, reduced_jacobian=jacobian)

    blind = Blind(control_dataset._group, control_dataset.path)
    with pytest.raises(InputError, match=r"hold 1% of the control's influence .*, expected at least 50%"):
        hd.train(blind, **QUICK)


def test_bad_input_is_named(control_dataset, confusion_dataset):
    with pytest.raises(InputError, match="jacobian_weight, control_weight: expected at least 0 and one of them > 0"):
        H1(0.0, control_weight=0.0)
    with pytest.raises(InputError, match="jacobian_weight: expected > 0"):
        H1(0.0)
    with pytest.raises(InputError, match="control_weight: the dataset has no control"):
        hd.train(confusion_dataset, H1(control_weight=1.0), **QUICK)
    with pytest.raises(InputError, match="FullDense takes parameters alone"):
        hd.train(control_dataset, architecture=FullDense(13, 8), **QUICK)


def test_products_train_and_know_the_rank_of_the_control(control_dataset, tmp_path, rng):
    ranks = control_dataset.input_basis.rank, control_dataset.output_basis.rank
    network = ReducedProduct(*ranks, width=32, hidden=(32,), depth=1, layer_rank=8)
    dino = hd.train(control_dataset, "h1", architecture=network, seed=2, epochs=40, batch_size=8, progress=False)
    assert dino.architecture.n_control == control_dataset.input_basis.control_part().rank
    errors = dino.evaluate(control_dataset)
    assert errors["observable"] < 0.8
    assert errors["control_jacobian"] < 0.8
    dino.save(tmp_path / "a.dino")
    x = rng.standard_normal((3, ranks[0]))
    np.testing.assert_array_equal(hd.DINO.load(tmp_path / "a.dino").latent_map.value(x), dino.latent_map.value(x))


def test_products_alone_are_affine_in_the_control(rng):
    network = ReducedProduct(6, 4, n_control=2, width=5, depth=0)
    f = network.latent_map([rng.standard_normal(shape) for shape in network.weight_shapes()])
    x, zeta = rng.standard_normal(4), rng.standard_normal((2, 2))
    at = [f.value(np.concatenate([x, z])) for z in (zeta[0], zeta[1], zeta.mean(axis=0))]
    np.testing.assert_allclose(at[2], (at[0] + at[1]) / 2, rtol=1e-12)
    bent = [f.value(np.concatenate([x * s, zeta[0]])) for s in (1, 2, 1.5)]
    assert np.abs(bent[2] - (bent[0] + bent[1]) / 2).max() > 1e-2  # of the parameter they are not


def test_products_need_a_control(confusion_dataset):
    ranks = confusion_dataset.input_basis.rank, confusion_dataset.output_basis.rank
    with pytest.raises(InputError, match="architecture: a ReducedProduct needs a dataset with controls"):
        hd.train(confusion_dataset, "h1", architecture=ReducedProduct(*ranks), epochs=1, progress=False)

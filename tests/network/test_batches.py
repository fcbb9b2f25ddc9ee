"""A batch is a function of seed, epoch and number."""

import numpy as np
import pytest

from hippylib_dino.network.batches import Batches
from hippylib_dino.network.formulations import H1, L2, SketchedH1, TruncatedH1


@pytest.fixture
def samples(confusion_dataset):
    return confusion_dataset.truncate(8, 6).split("train", 23)


def _batches(samples, formulation=None, **options):
    return Batches(samples, samples.x, formulation or SketchedH1(n_directions=2), 2.0, 5, **{"seed": 3, **options})


def _flat(batch):
    """Arrays by name."""
    inputs, truth, weights = batch
    inputs = inputs if isinstance(inputs, dict) else {"x": inputs}
    return {f"{i}/{k}": v for i, part in enumerate((inputs, truth, weights)) for k, v in part.items()}


def _assert_equal(one, other):
    one, other = _flat(one), _flat(other)
    assert set(one) == set(other)
    for key, values in one.items():
        np.testing.assert_array_equal(values, other[key])


def _at(batches, epoch):
    batches.start(epoch, 1.0)
    return batches


def test_a_batch_is_a_function_of_seed_epoch_and_number(samples):
    walked = _batches(samples)
    for _ in range(3):
        [walked[i] for i in range(len(walked))]
        walked.on_epoch_end()
    _assert_equal(walked[2], _at(_batches(samples), 3)[2])  # whatever was read before
    _assert_equal(walked[2], walked[2])
    for other in (walked[1], _at(_batches(samples), 2)[2], _at(_batches(samples, seed=4), 3)[2]):
        assert not np.array_equal(_flat(walked[2])["0/x"], _flat(other)["0/x"])
        assert not np.array_equal(_flat(walked[2])["0/rows"], _flat(other)["0/rows"])


def test_validation_batches_stay_the_same(samples):
    batches = _batches(samples, seed=None)
    first = batches[0]
    batches.on_epoch_end()
    _assert_equal(batches[0], first)
    np.testing.assert_array_equal(_flat(first)["0/x"], samples.x[:5].astype("float32"))


def test_what_does_not_fill_a_batch_is_left_out(samples):
    batches = _batches(samples)
    assert len(batches) == 4
    seen = np.concatenate([_flat(batches[i])["0/x"] for i in range(4)])
    assert len(np.unique(seen, axis=0)) == 20
    everything = {row.tobytes() for row in samples.x.astype("float32")}
    assert {row.tobytes() for row in seen} <= everything
    for _ in range(3):  # others are left out of other epochs
        batches.on_epoch_end()
        seen = np.concatenate([seen, *[_flat(batches[i])["0/x"] for i in range(4)]])
    assert len(np.unique(seen, axis=0)) == 23


@pytest.mark.parametrize("formulation", [L2(), H1(), TruncatedH1(rank=2), SketchedH1(n_directions=2)])
def test_a_batch_holds_its_samples(samples, formulation):
    """Inputs, truth, directions and weights are those of the same samples, in float32."""
    batch = _flat(_batches(samples, formulation)[1])
    assert {a.dtype for a in batch.values()} == {np.dtype("float32")}
    rows = [int(np.flatnonzero((samples.x.astype("float32") == x).all(axis=1))[0]) for x in batch["0/x"]]
    np.testing.assert_array_equal(batch["1/observable"], samples.y[rows].astype("float32"))
    np.testing.assert_array_equal(batch["2/observable"], 0.5)
    if isinstance(formulation, L2):
        assert "1/jacobian" not in batch
        return
    J = samples.reduced_jacobian[rows]
    seen = batch["0/rows"] @ J if "0/rows" in batch else J
    seen = seen @ batch["0/columns"].swapaxes(1, 2) if "0/columns" in batch else seen
    np.testing.assert_allclose(batch["1/jacobian"], seen, rtol=1e-5, atol=1e-5 * np.abs(J).max())
    scale = 6 / 2 if isinstance(formulation, SketchedH1) else 1.0
    np.testing.assert_allclose(batch["2/jacobian"], scale / samples.jacobian_energy[rows], rtol=1e-6)


def test_balance_scales_the_weights_of_jacobians_alone(samples):
    plain, balanced = _batches(samples), _batches(samples)
    balanced.balance = 0.25
    one, other = _flat(plain[0]), _flat(balanced[0])
    np.testing.assert_allclose(other.pop("2/jacobian"), 0.25 * one.pop("2/jacobian"), rtol=1e-6)
    for key, values in one.items():
        np.testing.assert_array_equal(values, other[key])


@pytest.mark.parametrize("formulation", [H1(), TruncatedH1(rank=2), SketchedH1(n_directions=2)])
def test_streamed_jacobians_make_the_same_batches(confusion_dataset, samples, formulation):
    dataset, read = confusion_dataset.truncate(8, 6), []

    def reader(index):
        read.append(len(index))
        return dataset.jacobians(index)

    kept = _batches(samples, formulation)
    streamed = _batches(dataset.split("train", 23, jacobians=False), formulation, read=reader)
    assert not read  # nothing before it is needed
    for i in range(len(kept)):
        one, other = _flat(kept[i]), _flat(streamed[i])
        for key, values in one.items():
            # products of float32 in blocks of another size
            np.testing.assert_allclose(other[key], values, rtol=0, atol=1e-4 * np.abs(values).max())
    assert read == [5] * 4

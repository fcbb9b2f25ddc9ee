import json
import shutil

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import DatasetError, InputError


@pytest.fixture
def copied(confusion_dataset, tmp_path):
    """A dataset that a test may damage."""
    shutil.copytree(confusion_dataset.path, tmp_path / "copy")
    return tmp_path / "copy"


def test_shapes_splits_and_repr(confusion_dataset):
    d = confusion_dataset
    assert d.complete
    assert d.x.shape == (64, 24)
    assert d.y.shape == (64, 30)
    assert d.reduced_jacobian.shape == (64, 30, 24)
    parts = [d.split(part) for part in ("train", "validation", "test")]
    assert [len(p) for p in parts] == [48, 8, 8]
    np.testing.assert_array_equal(np.concatenate([p.index for p in parts]), np.arange(64))
    np.testing.assert_array_equal(d.split("train", 5).x, d.x[:5])
    assert "64 of 64 samples done" in repr(d)


def test_scratch_of_the_first_pass_is_gone(confusion_dataset):
    assert not (confusion_dataset.path / "basis_samples").exists()


def test_samples_are_projections_of_the_full_ones(models, confusion_dataset):
    """x, y, J_r and the energies against full m and J, recomputed from the model for one sample."""
    d, model = confusion_dataset, models["confusion"]
    order, index = hd.modeling.DofOrder(model.prior.Vh), 50
    m = hd.data.draw_parameter(model.prior, 0, index)
    q, J = model.linearize(m)
    full = order.to_array(J.owned_rows()).T
    np.testing.assert_allclose(d.full("m", [index])[0], order.to_array(m.get_local()), atol=1e-14)
    np.testing.assert_allclose(d.full("jacobian", [index])[0], full, atol=1e-12)
    sample = {name: getattr(d.split("validation"), name)[index - 48] for name in ("x", "y", "reduced_jacobian")}
    np.testing.assert_allclose(sample["x"], d.input_basis.encode(order.to_array(m.get_local())), atol=1e-9)
    np.testing.assert_allclose(sample["y"], d.output_basis.encode(q), atol=1e-9)
    reduced = d.output_basis.encoder.T @ full @ d.input_basis.decoder
    np.testing.assert_allclose(sample["reduced_jacobian"], reduced, atol=1e-8 * np.abs(reduced).max())


def test_energy_of_the_full_jacobian_bounds_the_reduced_one(confusion_dataset):
    s = confusion_dataset.split("test")
    reduced = (s.reduced_jacobian**2).sum(axis=(1, 2))
    assert (reduced <= s.jacobian_energy).all()
    assert (reduced > 0.95 * s.jacobian_energy).all()


def test_verify_counts_good_samples(confusion_dataset):
    assert confusion_dataset.verify() == 64


def test_opens_in_xarray_terms(confusion_dataset):
    """Named dimensions are what xarray reads."""
    import zarr

    group = zarr.open_group(confusion_dataset.path, mode="r")
    assert group["reduced_jacobian"].metadata.dimension_names == ("sample", "latent_observable", "latent_parameter")


@pytest.mark.parametrize("change", ["flip", "truncate", "remove"])
def test_damaged_sample_is_named(copied, change):
    chunk = copied / "reduced_jacobian" / "c" / "7" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    if change == "flip":
        content[len(content) // 2] ^= 1
        chunk.write_bytes(content)
    elif change == "truncate":
        chunk.write_bytes(content[: len(content) // 2])
    else:
        chunk.unlink()
    dataset = hd.Dataset.open(copied)
    with pytest.raises(DatasetError, match="sample 7 of array 'reduced_jacobian' is"):
        dataset.verify()
    with pytest.raises(DatasetError, match="sample 7 of array 'reduced_jacobian' is"):
        dataset.split("train")


def test_lost_array_and_flipped_status_are_named(copied):
    chunk = copied / "status" / "c" / "3"
    content = bytearray(chunk.read_bytes())
    content[0] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(DatasetError, match="array 'status' is damaged"):
        hd.Dataset.open(copied).verify()
    content[0] ^= 1
    chunk.write_bytes(content)
    (copied / "y" / "zarr.json").unlink()
    with pytest.raises(DatasetError, match="array 'y' is damaged"):
        hd.Dataset.open(copied).verify()


def test_damaged_basis_is_named(copied):
    (copied / "bases" / "input" / "encoder" / "c" / "0" / "0").unlink()
    with pytest.raises(DatasetError, match="the array 'bases/input/encoder' is missing or damaged"):
        hd.Dataset.open(copied).verify()


def test_newer_format_is_named(copied):
    meta = json.loads((copied / "zarr.json").read_text())
    meta["attributes"]["format_version"] = 99
    (copied / "zarr.json").write_text(json.dumps(meta))
    with pytest.raises(DatasetError, match="has format version 99, this package reads 2; upgrade"):
        hd.Dataset.open(copied)


def test_truncated_metadata_is_named(copied):
    text = (copied / "zarr.json").read_text()
    (copied / "zarr.json").write_text(text[: len(text) // 2])
    with pytest.raises(DatasetError, match=r"zarr\.json is missing or damaged"):
        hd.Dataset.open(copied)


def test_missing_directory_and_foreign_group_are_named(tmp_path):
    import zarr

    with pytest.raises(DatasetError, match="no dataset directory at"):
        hd.Dataset.open(tmp_path / "nowhere")
    zarr.open_group(tmp_path / "foreign", mode="w")
    with pytest.raises(DatasetError, match="is a Zarr group, but not a hippylib_dino dataset"):
        hd.Dataset.open(tmp_path / "foreign")


def test_bad_split_and_full_requests_are_named(models, linear_dino, confusion_dataset, tmp_path):
    with pytest.raises(InputError, match=r"part: expected one of .*, got 'tset'"):
        confusion_dataset.split("tset")
    with pytest.raises(InputError, match=r"n: the train split of .* holds 48 finished samples, got 49"):
        confusion_dataset.split("train", 49)
    with pytest.raises(InputError, match="has no array 'state'; generate with store_full=True"):
        confusion_dataset.full("state", [0])

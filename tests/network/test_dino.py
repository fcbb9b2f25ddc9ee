import dataclasses
import io
import json
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import DinoError, FingerprintError, InputError, ModelFileError


@pytest.fixture
def saved(confusion_dino, tmp_path):
    confusion_dino.save(tmp_path / "a.dino")
    return tmp_path / "a.dino"


def test_save_load_gives_equal_output(confusion_dino, saved, rng):
    again = hd.DINO.load(saved)
    x = rng.standard_normal(24)
    for a, b in zip(
        again.latent_map.value_and_jacobian(x), confusion_dino.latent_map.value_and_jacobian(x), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert again.fingerprint == confusion_dino.fingerprint
    np.testing.assert_equal(again.training, confusion_dino.training)  # in which NaN stands for "not measured"
    np.testing.assert_array_equal(again.input_basis.encoder, confusion_dino.input_basis.encoder)


def test_file_holds_no_pickle(saved):
    with zipfile.ZipFile(saved) as archive:
        names = archive.namelist()
        assert all(name == "manifest.json" or name.endswith(".npy") for name in names)
        for name in names[1:]:
            np.lib.format.read_magic(archive.open(name))


def test_existing_file_is_not_replaced_silently(confusion_dino, saved):
    content = saved.read_bytes()
    with pytest.raises(InputError, match="exists; pass overwrite=True"):
        confusion_dino.save(saved)
    assert saved.read_bytes() == content
    confusion_dino.save(saved, overwrite=True)


def test_what_is_no_plain_file_is_never_replaced(confusion_dino, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="expected a plain file"):
        confusion_dino.save(tmp_path / "pipe", overwrite=True)
    assert (tmp_path / "pipe").is_fifo()


def test_truncated_altered_and_foreign_files_are_named(saved, tmp_path):
    content = saved.read_bytes()
    altered = bytearray(content)
    altered[len(content) // 2] ^= 0xFF
    for damaged in (content[: len(content) // 2], bytes(altered), b"not a zip"):
        (tmp_path / "b.dino").write_bytes(damaged)
        with pytest.raises(ModelFileError, match="is truncated, altered or no DINO file"):
            hd.DINO.load(tmp_path / "b.dino")
    with pytest.raises(ModelFileError, match="there is no file"):
        hd.DINO.load(tmp_path / "nowhere.dino")


def _with_manifest(saved, target, **changes):
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "manifest.json":
                content = json.dumps({**json.loads(content), **changes})
            new.writestr(name, content)


def npy(array):
    """Content of a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header_of(shape, dtype="<f8"):
    """A .npy file that tells of `shape`, and has one number."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(8)


BOMB = bytes(32 * 2**20)
FOREIGN = {
    "bomb": ("weights/0.npy", BOMB, zipfile.ZIP_DEFLATED),
    "bomb of a manifest": ("manifest.json", BOMB, zipfile.ZIP_DEFLATED),
    "bomb that nobody asks for": ("more.npy", BOMB, zipfile.ZIP_DEFLATED),
    "header of more than there is": ("weights/0.npy", header_of((10**12,)), zipfile.ZIP_STORED),
    "header of more than can be": ("weights/0.npy", header_of((2**62, 2**62)), zipfile.ZIP_STORED),
    "header of less than nothing": ("weights/0.npy", header_of((-1,)), zipfile.ZIP_STORED),
    "not finite": ("weights/0.npy", npy(np.array([1.0, np.nan])), zipfile.ZIP_STORED),
    "infinite basis": ("input_basis/decoder.npy", npy(np.full((3, 2), np.inf)), zipfile.ZIP_STORED),
    "strings": ("weights/0.npy", npy(np.array(["one", "two"])), zipfile.ZIP_STORED),
    "objects": ("weights/0.npy", header_of((1,), "|O"), zipfile.ZIP_STORED),
    "complex": ("output_basis/shift.npy", npy(np.array([1j])), zipfile.ZIP_STORED),
    "nested": ("manifest.json", b"[" * 10**6, zipfile.ZIP_STORED),
    "no object": ("manifest.json", b"[]", zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_content_that_is_none_of_ours_is_named_and_takes_no_memory(saved, tmp_path, kind):
    name, content, compression = FOREIGN[kind]
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(tmp_path / "b.dino", "w") as new:
        for member in old.namelist():
            if member != name:
                new.writestr(member, old.read(member))
        new.writestr(name, content, compression)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match="is truncated, altered or no DINO file"):
            hd.DINO.load(tmp_path / "b.dino")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 16 * 2**20


@pytest.mark.parametrize("noise", [np.array(["one"]), np.full(30, np.nan), np.full((7, 2), 1.0)])
def test_noise_that_is_none_is_named(confusion_dino, tmp_path, noise):
    confusion_dino.save(tmp_path / "b.dino", extra={"inference/noise_covariance": noise})
    with pytest.raises(DinoError, match=r"noise.covariance"):
        hd.ReducedInference.load(tmp_path / "b.dino")


@pytest.mark.parametrize("count", [10**12, -1, "three", None])
def test_number_of_weights_that_cannot_be_is_named(saved, tmp_path, count):
    _with_manifest(saved, tmp_path / "b.dino", n_weights=count)
    with pytest.raises(ModelFileError, match="is truncated, altered or no DINO file"):
        hd.DINO.load(tmp_path / "b.dino")


def test_newer_or_other_format_is_named(saved, tmp_path):
    _with_manifest(saved, tmp_path / "b.dino", format_version=99)
    with pytest.raises(ModelFileError, match="has format version 99, this package reads up to 1"):
        hd.DINO.load(tmp_path / "b.dino")
    _with_manifest(saved, tmp_path / "c.dino", format="something")
    with pytest.raises(ModelFileError, match="is a ZIP file, but not a hippylib_dino model"):
        hd.DINO.load(tmp_path / "c.dino")


def test_flipped_bytes_anywhere_are_named_or_harmless(confusion_dino, saved, tmp_path):
    """ZIP headers have no checksum of their own: whatever loads must be the same DINO."""
    content, rng = saved.read_bytes(), np.random.default_rng(0)
    for position in [*range(60), *rng.integers(0, len(content), 40), *range(len(content) - 200, len(content))]:
        damaged = bytearray(content)
        damaged[position] ^= 0x41
        (tmp_path / "b.dino").write_bytes(damaged)
        try:
            again = hd.DINO.load(tmp_path / "b.dino")
        except ModelFileError:
            continue
        assert all(np.array_equal(a, b) for a, b in zip(again.weights, confusion_dino.weights, strict=True))


def test_weights_that_do_not_fit_are_named(confusion_dino):
    with pytest.raises(InputError, match="weights: expected shapes"):
        dataclasses.replace(confusion_dino, weights=confusion_dino.weights[:-1])


def test_keras_model_has_the_trained_weights(confusion_dino, rng):
    x = rng.standard_normal((2, 24))
    out = confusion_dino.keras_model().predict(x, verbose=0)
    np.testing.assert_allclose(out["observable"], confusion_dino.latent_map.value(x), rtol=1e-3, atol=1e-2)


def test_full_jacobian_error_against_the_dense_definition(models, confusion_dataset, confusion_dino):
    """‖Γ^-½ (Ĵ - J) R^-½‖_HS by dense algebra over the full Jacobians that the dataset kept."""
    from hippylib_dino.modeling.spaces import map_block

    model, samples = models["confusion"], confusion_dataset.split("test")
    order, prior = hd.modeling.DofOrder(model.prior.Vh), model.prior
    covariance = map_block(prior.Rsolver.solve, prior.mean, prior.mean, np.eye(order.dim))
    squared = []
    for x, J in zip(samples.x, confusion_dataset.full("jacobian", samples.index), strict=True):
        latent = confusion_dino.latent_map.jacobian(x)
        predicted = confusion_dino.output_basis.decoder @ latent @ confusion_dino.input_basis.encoder.T
        norm = lambda a: np.trace(model.noise_covariance.solve(a @ covariance @ a.T))  # noqa: E731
        squared.append(norm((predicted - J)[:, order.owned]) / norm(J[:, order.owned]))
    errors = confusion_dino.evaluate(confusion_dataset)
    assert errors["jacobian"] == pytest.approx(np.sqrt(np.mean(squared)), rel=1e-6)
    assert errors["jacobian"] > errors["jacobian_truncation"] > 0
    literal = []
    for x, J in zip(samples.x, confusion_dataset.full("jacobian", samples.index), strict=True):
        latent = confusion_dino.latent_map.jacobian(x)
        predicted = confusion_dino.output_basis.decoder @ latent @ confusion_dino.input_basis.encoder.T
        literal.append(np.linalg.norm(predicted - J) ** 2 / np.linalg.norm(J) ** 2)
    assert errors["jacobian_dof_frobenius"] == pytest.approx(np.sqrt(np.mean(literal)), rel=1e-10)


def test_perfect_prediction_leaves_only_truncation(confusion_dataset, confusion_dino):
    from hippylib_dino.network.metrics import relative_errors

    s = confusion_dataset.split("test")
    errors = relative_errors(s, s.y, s.reduced_jacobian, confusion_dino.input_basis, spread=1.0)
    assert errors["jacobian"] == errors["jacobian_truncation"] > 0
    assert errors["observable"] == errors["observable_truncation"] > 0
    for name in ("reduced_jacobian", "gauss_newton", "dominant_jacobian", "misfit_gradient", "misfit_gradient_riesz"):
        assert errors[name] == 0.0
    assert errors["null_space"] == pytest.approx(0.0, abs=1e-6)


def test_null_space_error_is_the_spurious_part(confusion_dataset, confusion_dino):
    """Two observables see at most two directions; a component orthogonal to them is all error."""
    from hippylib_dino.network.metrics import _hessian_errors

    J = np.zeros((1, 2, 4))
    J[0, 0, 0], J[0, 1, 1] = 3.0, 4.0
    spurious = np.zeros_like(J)
    spurious[0, 0, 2] = 0.5
    assert _hessian_errors(J, spurious)["null_space"] == pytest.approx(0.1**2)
    inside = np.zeros_like(J)
    inside[0, 0, 1] = 0.5
    assert _hessian_errors(J, inside)["null_space"] == pytest.approx(0.0, abs=1e-12)


def test_metrics_of_a_scaled_prediction(confusion_dataset, confusion_dino):
    """Ten per cent too much everywhere has known errors."""
    from hippylib_dino.network.metrics import relative_errors

    s = confusion_dataset.split("test")
    errors = relative_errors(s, s.y, 1.1 * s.reduced_jacobian, confusion_dino.input_basis, spread=1.0)
    for name in ("reduced_jacobian", "dominant_jacobian", "misfit_gradient", "misfit_gradient_riesz"):
        assert errors[name] == pytest.approx(0.1, rel=1e-9)
    assert errors["gauss_newton"] == pytest.approx(0.21, rel=1e-9)


def test_dataset_with_other_bases_is_refused(models, confusion_dino, tmp_path):
    other = hd.generate(
        models["confusion"], tmp_path / "d", n_samples=6, n_validation=1, n_test=2, input_rank=24, output_rank=30,
        seed=9, progress=False,
    )  # fmt: skip
    with pytest.raises(InputError, match="input basis is not the one that this DINO was trained in"):
        confusion_dino.evaluate(other)


def test_dataset_of_another_problem_in_the_same_bases_is_refused(confusion_dataset, confusion_dino):
    """As bases of the prior and of the identity are, whatever the PDE."""
    mark = {**confusion_dino.fingerprint, "forward map": {"observable at the prior mean": [1.0, 2.0]}}
    elsewhere = dataclasses.replace(confusion_dino, fingerprint=mark)
    with pytest.raises(FingerprintError, match="dino: it was made for another forward map"):
        elsewhere.evaluate(confusion_dataset)
    older = dataclasses.replace(confusion_dino, fingerprint={})  # of which nothing is known
    assert older.evaluate(confusion_dataset) == confusion_dino.evaluate(confusion_dataset)


def test_ranks_that_do_not_fit_the_bases_are_named(confusion_dino):
    with pytest.raises(InputError, match=r"expected ranks \(24, 30\) as the bases have, got \(23, 30\)"):
        dataclasses.replace(
            confusion_dino,
            architecture=dataclasses.replace(confusion_dino.architecture, input_rank=23, input_scale=None),
        )


def test_observable_of_full_parameters(models, confusion_dino, surrogates):
    model = models["confusion"]
    m = hd.data.draw_parameter(model.prior, 1, 1)
    order = hd.modeling.DofOrder(model.prior.Vh)
    full = confusion_dino.observable(order.to_array(m.get_local()))
    np.testing.assert_allclose(full, surrogates["confusion surrogate"].evalObservable(m), rtol=1e-9)

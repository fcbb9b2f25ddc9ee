"""Training samples with given parameters."""

import json
import shutil

import hippylib as hp
import numpy as np
import pytest
import zarr

import hippylib_dino as hd
from hippylib_dino.data.directory import DatasetDirectory
from hippylib_dino.data.solving import SampleSolver
from hippylib_dino.errors import DatasetError, FingerprintError, InputError, SolveError
from hippylib_dino.modeling.spaces import DofOrder, owned_values, set_owned_values
from tests.control_problems import build

SIZE = {"n_samples": 6, "n_validation": 2, "n_test": 2, "n_basis_samples": 6, "input_rank": 6, "output_rank": 5}
ARRAYS = ("x", "y", "reduced_jacobian", "observable", "observable_energy", "jacobian_energy")


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory):
    return hd.generate(models["vector"], tmp_path_factory.mktemp("append") / "whole", **SIZE, progress=False)


@pytest.fixture
def dataset(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "d")
    return hd.Dataset.open(tmp_path / "d")


@pytest.fixture(scope="module")
def parameters(models):
    """Off the prior, (3, dM)."""
    model = models["vector"]
    order = DofOrder(model.prior.Vh)
    draws = [hd.data.draw_parameter(model.prior, 99, i) for i in range(3)]
    return 1.5 * np.array([order.to_array(owned_values(m)) for m in draws]) + 0.2


def _vector(model, values):
    m = model.generate_vector(hp.PARAMETER)
    set_owned_values(m, DofOrder(model.prior.Vh).from_array(values))
    return m


def _files(path):
    return {f: f.read_bytes() for f in path.rglob("*") if f.is_file()}


def _chunks_of_samples(path):
    """What a sample's values are stored in: all but metadata and the record of runs."""
    return {f: content for f, content in _files(path).items() if f.name != "zarr.json" and "runs" not in f.parts}


def _append(model, dataset, parameters, origins=("a", "b", "c")):
    return hd.data.append(model, dataset, parameters, list(origins), progress=False)


def test_given_samples_are_exact(models, dataset, parameters):
    """Observable, Jacobian and projections are those of `model.linearize` at the given parameter."""
    model = models["vector"]
    grown = _append(model, dataset, parameters)
    assert grown.given == {10: "a", 11: "b", 12: "c"}
    train = grown.split("train")
    np.testing.assert_array_equal(train.index, [0, 1, 2, 3, 4, 5, 10, 11, 12])
    inputs, outputs = grown.input_basis, grown.output_basis
    for row, values in zip(range(6, 9), parameters, strict=True):
        q, jacobian = model.linearize(_vector(model, values))
        decoder = DofOrder(model.prior.Vh).from_array(inputs.decoder)
        reduced = outputs.encoder.T @ jacobian.to_dense() @ decoder
        np.testing.assert_allclose(train.observable[row], q, rtol=1e-8)
        np.testing.assert_allclose(train.x[row], inputs.encode(values), atol=1e-10)
        np.testing.assert_allclose(train.y[row], outputs.encode(q), atol=1e-6)
        np.testing.assert_allclose(train.reduced_jacobian[row], reduced, atol=1e-6 * np.abs(reduced).max())
        np.testing.assert_array_equal(grown.given_parameter(int(train.index[row])), values)
    assert grown.verify() == 13


def test_nothing_that_was_there_is_written_to(models, dataset, whole, parameters):
    before, old = _chunks_of_samples(dataset.path), {name: getattr(dataset, name) for name in ARRAYS[:3]}
    grown = _append(models["vector"], dataset, parameters)
    after = _chunks_of_samples(grown.path)
    assert {f: after[f] for f in before} == before
    for name, values in old.items():
        np.testing.assert_array_equal(getattr(grown, name)[:10], values)


def test_held_out_samples_stay_clean(models, dataset, parameters):
    grown = _append(models["vector"], dataset, parameters)
    for part in ("validation", "test"):
        np.testing.assert_array_equal(grown.members(part), dataset.members(part))
    assert dataset.reopened().given == grown.given
    assert dataset.given == {}  # the view that was opened before


def test_a_truncated_view_comes_back_truncated(models, dataset, parameters):
    grown = _append(models["vector"], dataset.truncate(4, 3), parameters)
    assert grown.x.shape == (13, 4)
    assert grown.y.shape == (13, 3)


def test_the_same_call_adds_nothing(models, dataset, parameters):
    model = models["vector"]
    _append(model, dataset, parameters)
    before = _chunks_of_samples(dataset.path)
    again = _append(model, dataset.reopened(), parameters)
    assert len(again.given) == 3
    assert _chunks_of_samples(dataset.path) == before
    assert len(_append(model, again, parameters, "abd").given) == 6  # from elsewhere
    assert len(_append(model, again, parameters + 1e-12).given) == 9  # another parameter


@pytest.mark.parametrize("finish", ["the same call", "generate"])
def test_an_interrupted_call_is_finished(models, dataset, parameters, monkeypatch, finish):
    model = models["vector"]
    with monkeypatch.context() as patch:
        solve = SampleSolver.solve

        def killed(self, index):
            if index == 11:
                raise KeyboardInterrupt
            return solve(self, index)

        patch.setattr(SampleSolver, "solve", killed)
        with pytest.raises(KeyboardInterrupt):
            _append(model, dataset, parameters)
    half = dataset.reopened()
    assert not half.complete
    assert len(half.members("train")) == 7
    if finish == "generate":
        hd.generate(model, dataset.path, **SIZE, resume=True, progress=False)
    else:
        _append(model, half, parameters)
    done = dataset.reopened()
    assert done.plan.n_given == 3
    assert done.verify() == 13


def test_an_interrupted_call_gives_the_same_samples(models, whole, parameters, monkeypatch, tmp_path):
    """Wherever it stops before the plan, nothing counts; after it, the same samples come."""
    model = models["vector"]
    views = []
    for name in ("one", "two"):
        shutil.copytree(whole.path, tmp_path / name)
        views.append(hd.Dataset.open(tmp_path / name))
    with monkeypatch.context() as patch:

        def killed(self, root, wanted):
            raise KeyboardInterrupt

        patch.setattr(DatasetDirectory, "_extend", killed)
        with pytest.raises(KeyboardInterrupt):
            _append(model, views[0], 2 * parameters)  # others were meant
    assert views[0].reopened().given == {}
    assert views[0].reopened().verify() == 10
    one, two = (_append(model, view, parameters) for view in views)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one.split("train"), name), getattr(two.split("train"), name))


def test_draws_after_given_samples_are_what_they_would_have_been(models, dataset, parameters, tmp_path):
    model = models["vector"]
    _append(model, dataset, parameters)
    larger = {**SIZE, "n_samples": 8}
    grown = hd.generate(model, dataset.path, **larger, resume=True, progress=False)
    assert (grown.plan.n_train, grown.plan.n_given) == (8, 3)
    assert list(grown.given) == [10, 11, 12]
    order = DofOrder(model.prior.Vh)
    for index in (13, 14):
        m = order.to_array(owned_values(hd.data.draw_parameter(model.prior, 0, index)))
        row = np.flatnonzero(grown.split("train").index == index)[0]
        np.testing.assert_allclose(grown.split("train").x[row], grown.input_basis.encode(m), atol=1e-10)


def test_a_damaged_sample_is_solved_again_from_its_parameter(models, dataset, parameters):
    model = models["vector"]
    grown = _append(model, dataset, parameters)
    before = grown.split("train").reduced_jacobian[7]
    chunk = next(f for f in (grown.path / "reduced_jacobian" / "c" / "11").rglob("*") if f.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-4] + b"oops")
    assert list(grown.reopened().damaged()) == [11]
    mended = hd.generate(model, grown.path, **SIZE, resume=True, repair=True, progress=False)
    np.testing.assert_allclose(mended.split("train").reduced_jacobian[7], before, rtol=1e-12, atol=1e-14)


def test_a_damaged_parameter_is_named(models, dataset, parameters):
    grown = _append(models["vector"], dataset, parameters)
    chunk = next(f for f in (grown.path / "given" / "00000010" / "m" / "c" / "1").rglob("*") if f.is_file())
    chunk.write_bytes(b"oops")
    with pytest.raises(DatasetError, match="the given parameter of sample 11 is damaged"):
        grown.verify()
    (grown.path / "given" / "00000010" / "zarr.json").unlink()
    with pytest.raises(DatasetError, match="the folder 'given' is damaged"):
        grown.reopened().verify()


def test_failures_are_data(models, dataset, parameters, monkeypatch):
    solve = SampleSolver.solve

    def fail(self, index):
        if index == 12:
            raise SolveError("out of luck")
        return solve(self, index)

    monkeypatch.setattr(SampleSolver, "solve", fail)
    grown = _append(models["vector"], dataset, parameters)
    assert [f["index"] for f in grown.failures] == [12]
    np.testing.assert_array_equal(grown.failed_parameter(12), parameters[2])
    assert len(grown.members("train")) == 8
    # the draws of the prior carry no bias from it
    assert hd.data.bias_of_failures(grown) == "none failed: the samples are draws of the prior."
    assert "6 train, 2 validation, 2 test, 3 with given parameters" in hd.data.report(grown)["samples"]


def test_given_samples_are_not_reused_as_draws(models, parameters, tmp_path):
    """In another dataset the numbers of given samples are draws of the prior."""
    model = models["vector"]
    full = hd.generate(model, tmp_path / "full", **SIZE, store_full=True, progress=False)
    full = _append(model, full, parameters)
    np.testing.assert_array_equal(full.full("m", np.array([10, 11, 12])), parameters)
    other = hd.generate(model, tmp_path / "o", **{**SIZE, "n_samples": 9}, reuse=full, progress=False)
    order = DofOrder(model.prior.Vh)
    for index in range(10, 13):
        m = order.to_array(owned_values(hd.data.draw_parameter(model.prior, 0, index)))
        np.testing.assert_allclose(other.x[index], other.input_basis.encode(m), atol=1e-10)


def test_a_dataset_without_given_samples_is_as_before(whole):
    """Plans that older versions wrote have no number of given samples."""
    stored = json.loads((whole.path / "zarr.json").read_text())["attributes"]["plan"]
    del stored["n_given"]
    plan = type(whole.plan).from_attributes(stored)
    assert plan == whole.plan
    assert "given" not in zarr.open_group(whole.path, mode="r")


ON_RANKS = """
import numpy as np
import hippylib_dino as hd
from tests import problems
model = problems.vector(hd.sample_communicator({ranks_per_sample}))
parameters = np.load({folder!r} + "/m.npy")
hd.data.append(model, hd.Dataset.open({folder!r} + "/" + {name!r}), parameters, ["a", "b", "c"], progress=False)
"""


def test_ranks_change_nothing(run_python, models, whole, parameters, tmp_path):
    """Two groups that share the samples, and one mesh on two ranks."""
    np.save(tmp_path / "m.npy", parameters)
    for name, each in (("groups", 1), ("mesh", None)):
        shutil.copytree(whole.path, tmp_path / name)
        run_python(ON_RANKS.format(ranks_per_sample=each, folder=str(tmp_path), name=name), ranks=2)
    shutil.copytree(whole.path, tmp_path / "one")
    one = _append(models["vector"], hd.Dataset.open(tmp_path / "one"), parameters).split("train")
    for name in ("groups", "mesh"):
        other = hd.Dataset.open(tmp_path / name)
        assert other.given == {10: "a", 11: "b", 12: "c"}
        for array in ARRAYS:
            there = getattr(one, array)
            np.testing.assert_allclose(
                getattr(other.split("train"), array), there, rtol=1e-7, atol=1e-7 * np.abs(there).max()
            )


def test_bad_input_is_named(models, dataset, parameters):
    model = models["vector"]
    with pytest.raises(InputError, match=r"parameters: expected shape \(k, 49\), .* got \(49,\)"):
        _append(model, dataset, parameters[0])
    with pytest.raises(InputError, match=r"got \(0, 49\)"):
        _append(model, dataset, parameters[:0], "")
    with pytest.raises(InputError, match="parameters: 1 of 3 have values that are not finite"):
        _append(model, dataset, np.where(np.arange(3)[:, None] == 1, np.nan, parameters))
    with pytest.raises(InputError, match="origins: expected a list of 3 strings"):
        _append(model, dataset, parameters, ["a"])
    with pytest.raises(InputError, match="origins: expected a list of 3 strings"):
        hd.data.append(model, dataset, parameters, "abc", progress=False)
    with pytest.raises(InputError, match=r"index: sample 3 of .* is a draw of the prior"):
        dataset.given_parameter(3)
    with pytest.raises(InputError, match="model: has a control, which parameters alone do not fix"):
        _append(build("wells", hd.sample_communicator()), dataset, parameters)
    other = models["linear"]
    with pytest.raises(FingerprintError, match="was made for another"):
        _append(other, dataset, np.zeros((3, other.prior.mean.size())))
    assert dataset.reopened().given == {}

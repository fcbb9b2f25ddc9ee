import json

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.data.solving import SampleSolver
from hippylib_dino.errors import (
    DatasetError,
    FingerprintError,
    GenerationError,
    InputError,
    MisfitError,
    RankError,
    SolveError,
)
from hippylib_dino.modeling import JacobianModel

SMALL = {"n_samples": 4, "n_validation": 1, "n_test": 1, "input_rank": 6, "output_rank": 5, "progress": False}

MPI_RUN = """
import hippylib_dino as hd
from tests import problems
model = problems.linear_or_vector(hd.sample_communicator({ranks_per_sample}))
hd.generate(model, {path!r}, n_samples=6, n_validation=1, n_test=2, input_rank=6, output_rank=5,
            store_full=True, progress=False)
"""


def _mpi_code(path, name="vector", ranks_per_sample=1):
    return MPI_RUN.replace("linear_or_vector", name).format(path=str(path), ranks_per_sample=ranks_per_sample)


def test_one_rank_and_two_ranks_give_the_same_dataset(run_python, tmp_path):
    run_python(_mpi_code(tmp_path / "one"))
    run_python(_mpi_code(tmp_path / "two"), ranks=2)
    one, two = hd.Dataset.open(tmp_path / "one"), hd.Dataset.open(tmp_path / "two")
    for name in ("x", "y", "reduced_jacobian"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(one.full("jacobian", range(9)), two.full("jacobian", range(9)))


def test_mesh_on_two_ranks(run_python, tmp_path):
    """Projections agree with the full fields that the partitioned run stored itself."""
    run_python(_mpi_code(tmp_path / "d", ranks_per_sample=2), ranks=2)
    d = hd.Dataset.open(tmp_path / "d")
    assert d.verify() == 9
    np.testing.assert_allclose(d.x, d.input_basis.encode(d.full("m", range(9))), atol=1e-9)
    J = d.full("jacobian", range(9))
    reduced = np.einsum("qr,nqm,ms->nrs", d.output_basis.encoder, J, d.input_basis.decoder)
    np.testing.assert_allclose(d.reduced_jacobian, reduced, atol=1e-8 * np.abs(reduced).max())


def test_generation_under_mpi_from_an_empty_compile_cache(run_python, tmp_path):
    """Without the guard one rank dies in dijitso and the other hangs."""
    code = """
import dolfin as dl, hippylib as hp, numpy as np, sys
import hippylib_dino as hd
mesh = dl.UnitSquareMesh(hd.sample_communicator(), 4, 4)
space = dl.FunctionSpace(mesh, "Lagrange", 1)
residual = lambda u, m, p: dl.inner(dl.grad(u), dl.grad(p))*dl.dx + dl.exp(m)*u*p*dl.dx - p*dl.dx
pde = hp.PDEVariationalProblem([space]*3, residual, [], [], is_fwd_linear=True)
prior = hp.LaplacianPrior(space, 0.1, 1.0)
B = hp.assemblePointwiseObservation(space, np.array([[0.3, 0.3], [0.6, 0.7]]))
model = hd.JacobianModel(pde, prior, hp.DiscreteStateObservation(B, noise_variance=1e-4))
d = hd.generate(model, sys.argv[1] if len(sys.argv) > 1 else PATH, n_samples=4, n_validation=1, n_test=1,
                input_rank=2, output_rank=2, progress=False)
"""
    # hippylib's own C++ compiles for a minute and is guarded by dolfin: start from its cache alone
    cache = _cache_with_hippylib_only(tmp_path / "cache")
    done = run_python(f"PATH = {str(tmp_path / 'd')!r}\n" + code, ranks=2, DIJITSO_CACHE_DIR=str(cache))
    assert done.returncode == 0
    assert hd.Dataset.open(tmp_path / "d").verify() == 6
    assert len(list((cache / "lib").glob("libdijitso-ffc*"))) > 5


def _cache_with_hippylib_only(target):
    import shutil
    from pathlib import Path

    import dijitso

    source = Path(dijitso.validate_params({})["cache"]["cache_dir"])
    for folder in ("lib", "src", "inc"):
        (target / folder).mkdir(parents=True)
        for file in (source / folder).glob("*"):
            if "ffc" not in file.name and "element" not in file.name:
                shutil.copy(file, target / folder / file.name)
    return target


def test_run_that_is_finished_is_not_repeated(models, tmp_path, monkeypatch):
    hd.generate(models["linear"], tmp_path / "d", **SMALL)
    monkeypatch.setattr(SampleSolver, "solve", None)  # a solve would fail
    d = hd.generate(models["linear"], tmp_path / "d", **SMALL, resume=True)
    assert d.complete


@pytest.mark.parametrize("stop_after", [2, 5])
def test_interrupted_run_resumes_to_the_same_dataset(models, tmp_path, monkeypatch, stop_after):
    model = models["vector"]
    whole = hd.generate(model, tmp_path / "whole", **SMALL)
    calls, solve = [], SampleSolver.solve

    def interrupted(self, index):
        calls.append(1)
        if len(calls) > stop_after:
            raise KeyboardInterrupt
        return solve(self, index)

    monkeypatch.setattr(SampleSolver, "solve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hd.generate(model, tmp_path / "parts", **SMALL)
    monkeypatch.setattr(SampleSolver, "solve", solve)
    resumed = hd.generate(model, tmp_path / "parts", **SMALL, resume=True)
    np.testing.assert_array_equal(resumed.reduced_jacobian, whole.reduced_jacobian)
    assert resumed.complete


def _failing(monkeypatch, bad):
    """Make the first solve of the samples `bad` fail."""
    solve = JacobianModel.solveState

    def sometimes(self, m, guess=None):
        if any((m - hd.data.draw_parameter(self.prior, 0, index)).norm("linf") == 0 for index in bad):
            raise SolveError("Newton gave up")
        return solve(self, m, guess)

    monkeypatch.setattr(JacobianModel, "solveState", sometimes)


def test_failed_solves_are_recorded_and_left_out(models, tmp_path, monkeypatch):
    _failing(monkeypatch, {1, 4})
    d = hd.generate(models["vector"], tmp_path / "d", **SMALL)
    assert d.verify() == 4
    assert d.complete
    assert [f["index"] for f in d.failures] == [1, 4]
    assert d.failures[0]["reason"] == "Newton gave up"
    assert d.failures[1] == {"index": 4, "seed": 0, "reason": "Newton gave up"}


def test_too_many_failures_end_the_run(models, tmp_path, monkeypatch):
    _failing(monkeypatch, {0, 1, 2})
    with pytest.raises(GenerationError, match="2 solves failed, more than max_failures=1"):
        hd.generate(models["vector"], tmp_path / "d", **SMALL, max_failures=1)


def test_directory_of_another_problem_is_refused_and_untouched(models, tmp_path):
    hd.generate(models["linear"], tmp_path / "d", **SMALL)
    before = sorted(str(p) for p in (tmp_path / "d").rglob("*"))
    for resume in (False, True):
        with pytest.raises(FingerprintError, match="was made for another"):
            hd.generate(models["vector"], tmp_path / "d", **SMALL, resume=resume)
    assert sorted(str(p) for p in (tmp_path / "d").rglob("*")) == before


def test_existing_dataset_and_foreign_files_are_refused(models, tmp_path):
    hd.generate(models["linear"], tmp_path / "d", **SMALL)
    with pytest.raises(DatasetError, match="pass resume=True to continue"):
        hd.generate(models["linear"], tmp_path / "d", **SMALL)
    with pytest.raises(DatasetError, match="planned otherwise: seed was 0, is 1"):
        hd.generate(models["linear"], tmp_path / "d", **SMALL, seed=1, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(DatasetError, match="is not empty and holds no dataset"):
        hd.generate(models["linear"], tmp_path / "other", **SMALL)
    assert (tmp_path / "other" / "thesis.tex").read_text() == "precious"


def test_another_pde_on_the_same_spaces_is_refused(models, tmp_path, monkeypatch):
    model = models["linear"]
    hd.generate(model, tmp_path / "d", **SMALL)
    solve = type(model).evalObservable
    monkeypatch.setattr(type(model), "evalObservable", lambda self, m: 1.001 * solve(self, m))
    with pytest.raises(FingerprintError, match="another forward map"):
        hd.generate(model, tmp_path / "d", **SMALL, resume=True)


def test_another_noise_is_refused(models, tmp_path, monkeypatch):
    model = models["linear"]
    hd.generate(model, tmp_path / "d", **SMALL)
    monkeypatch.setattr(model.misfit, "noise_variance", 1.0)
    with pytest.raises(DatasetError, match=r"another noise covariance.* was 0.0001, is 1"):
        hd.generate(model, tmp_path / "d", **SMALL, resume=True)


def test_kill_while_the_bases_are_written_is_resumed(models, tmp_path, monkeypatch):
    import hippylib_dino.data.generation as generation
    from hippylib_dino.data import storing

    write = generation.write_basis

    def killed(group, name, basis):
        if name == "output":
            storing.create_group(group, "bases/output")
            raise KeyboardInterrupt
        write(group, name, basis)

    monkeypatch.setattr(generation, "write_basis", killed)
    with pytest.raises(KeyboardInterrupt):
        hd.generate(models["linear"], tmp_path / "d", **SMALL)
    monkeypatch.setattr(generation, "write_basis", write)
    assert hd.generate(models["linear"], tmp_path / "d", **SMALL, resume=True).verify() == 6


def test_kill_while_the_dataset_is_made_leaves_nothing_in_the_way(models, tmp_path, monkeypatch):
    import hippylib_dino.data.directory as directory

    monkeypatch.setattr(directory, "create_whole_array", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        hd.generate(models["linear"], tmp_path / "d", **SMALL)
    monkeypatch.undo()
    assert hd.generate(models["linear"], tmp_path / "d", **SMALL, resume=True).complete


def _interrupt(*args):
    raise KeyboardInterrupt


def test_ranks_may_change_until_there_are_bases(models, tmp_path, monkeypatch):
    """The remedy that the rank error names can be followed without solving again."""
    model = models["linear"]
    with pytest.raises(RankError, match="numerically can give, got 12"):
        hd.generate(model, tmp_path / "d", **{**SMALL, "input_rank": 12})
    solves, solve = [], SampleSolver.solve
    monkeypatch.setattr(SampleSolver, "solve", lambda self, index: solves.append(1) or solve(self, index))
    d = hd.generate(model, tmp_path / "d", **SMALL, resume=True)
    assert d.x.shape == (6, 6)
    assert len(solves) == 2  # validation and test; the basis samples were kept


def test_missing_status_is_found_and_solved_again(models, tmp_path):
    d = hd.generate(models["linear"], tmp_path / "d", **SMALL)
    before = d.reduced_jacobian
    (tmp_path / "d" / "status" / "c" / "1").unlink()
    with pytest.raises(DatasetError, match="sample 1 of array 'status' is missing"):
        hd.Dataset.open(tmp_path / "d").verify()
    again = hd.generate(models["linear"], tmp_path / "d", **SMALL, resume=True)
    assert again.verify() == 6
    np.testing.assert_allclose(again.reduced_jacobian, before, atol=1e-10 * np.abs(before).max())


def test_multiplicative_noise_weighs_observables_equally(models, tmp_path):
    """`MultDiscreteStateObservation` has no covariance; data, training and surrogate work all the same."""
    import hippylib as hp

    poisson = models["poisson"]
    misfit = hp.MultDiscreteStateObservation(poisson.B, None, 50.0)
    model = hd.JacobianModel(poisson.problem, poisson.prior, misfit)
    d = hd.generate(model, tmp_path / "d", **{**SMALL, "n_samples": 8})
    np.testing.assert_allclose(d.output_basis.encoder, d.output_basis.decoder)
    assert d.weight_covariance == 1.0
    with pytest.raises(MisfitError, match=r"noise_covariance: the dataset in .* whose noise is not Gaussian"):
        d.noise_covariance  # noqa: B018
    dino = hd.train(d, epochs=2, hidden=(4,), progress=False)
    hd.modeling.set_owned_values(misfit.d, model.evalObservable(model.prior.mean))
    surrogate = hd.SurrogateModel(dino, model.prior, misfit)
    x = surrogate.generate_vector()
    surrogate.solveFwd(x[hp.STATE], x)
    q = surrogate.evalObservable(x[hp.PARAMETER])
    expected = 50.0 * (np.log(q) + hd.modeling.owned_values(misfit.d) / q).sum()
    assert surrogate.cost(x)[2] == pytest.approx(expected)


def test_empty_splits(models, tmp_path):
    d = hd.generate(models["linear"], tmp_path / "d", **{**SMALL, "n_validation": 0, "n_test": 0})
    assert len(d.split("test")) == 0
    with pytest.raises(InputError, match="has no validation samples"):
        hd.train(d, progress=False)


def test_file_in_the_way_is_named(models, tmp_path):
    (tmp_path / "d").write_text("a file")
    with pytest.raises(DatasetError, match="is a file; choose a directory"):
        hd.generate(models["linear"], tmp_path / "d", **SMALL)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ({"input_rank": 37}, "input_rank: expected at most 36, which is what 4 basis samples"),
        ({"input_rank": 82, "input_basis": "kle"}, "input_rank: expected at most 81"),
        ({"output_rank": 10}, "output_rank: expected at most 9"),
        ({"output_rank": 4, "output_basis": "pod"}, "output_rank: expected at most 3"),
    ],
)
def test_rank_beyond_the_data_is_refused_before_any_solve(models, tmp_path, ranks, message):
    with pytest.raises(RankError, match=message):
        hd.generate(models["linear"], tmp_path / "d", **{**SMALL, **ranks})
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_samples": 0}, "n_samples: expected at least 1, got 0"),
        ({"n_basis_samples": 9}, "n_basis_samples: expected at most n_samples = 4"),
        ({"input_basis": "pca"}, 'input_basis: expected "derivative" or "kle", got'),
        ({"output_basis": "kle"}, 'output_basis: expected "derivative", "pod" or "identity", got'),
    ],
)
def test_bad_arguments_are_named(models, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        hd.generate(models["linear"], tmp_path / "d", **{**SMALL, **change})
    assert not (tmp_path / "d").exists()


def test_error_on_one_rank_reaches_the_others(run_python, tmp_path):
    code = f"""
import hippylib_dino as hd
from mpi4py import MPI
from tests import problems
model = problems.linear(hd.sample_communicator())
if MPI.COMM_WORLD.rank == 1:
    def broken(u, m): raise TypeError("a bug on rank 1")
    model.linearize_at = broken
try:
    hd.generate(model, {str(tmp_path / "d")!r}, n_samples=4, input_rank=3, output_rank=3, progress=False)
except Exception as error:
    print("RANK", MPI.COMM_WORLD.rank, type(error).__name__, error, flush=True)
"""
    out = run_python(code, ranks=2).stdout
    assert "RANK 0 GenerationError rank 1 of 2 raised TypeError('a bug on rank 1')" in out
    assert "RANK 1 TypeError a bug on rank 1" in out


def test_samples_depend_on_seed_and_index_alone(models):
    prior = models["linear"].prior
    a, b = hd.data.draw_parameter(prior, 0, 3), hd.data.draw_parameter(prior, 0, 3)
    assert (a - b).norm("linf") == 0.0
    assert (a - hd.data.draw_parameter(prior, 0, 4)).norm("linf") > 0.1
    assert (a - hd.data.draw_parameter(prior, 1, 3)).norm("linf") > 0.1


def test_metadata_explains_itself(confusion_dataset):
    meta = json.loads((confusion_dataset.path / "zarr.json").read_text())["attributes"]
    assert meta["format"] == "hippylib_dino dataset"
    assert meta["plan"]["n_train"] == 48
    assert set(meta["versions"]) == {"hippylib", "numpy", "zarr", "mpi4py", "python"}
    assert meta["fingerprint"]["parameter space"]["dimension"] == "289"

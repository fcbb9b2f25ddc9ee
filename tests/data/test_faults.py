"""What a production run meets: kills at any moment, full disks, a second run, damage, ranks that raise."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.data.lock import DirectoryLock, holder
from hippylib_dino.data.solving import SampleSolver
from hippylib_dino.errors import DatasetError, GenerationError

SIZE = {"n_samples": 12, "n_validation": 2, "n_test": 2, "n_basis_samples": 6, "input_rank": 6, "output_rank": 5}
RUN = """
import time
import hippylib_dino as hd
from hippylib_dino.data.solving import SampleSolver
from tests import problems
model = problems.vector(hd.sample_communicator())
solve = SampleSolver.solve
def slow(self, index):
    time.sleep({pause})
    return solve(self, index)
SampleSolver.solve = slow
hd.generate(model, {path!r}, **{size}, resume=True, progress=False)
print("COMPLETE", flush=True)
"""
ARRAYS = ("x", "y", "reduced_jacobian")
PATIENT = 900  # seconds, which no loaded machine needs
FOR_EVER = 3600.0  # of a sample: the run is ended from outside


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory):
    """The dataset of a run that nothing disturbed."""
    return hd.generate(models["vector"], tmp_path_factory.mktemp("faults") / "whole", **SIZE, progress=False)


def _same(dataset, whole):
    for name in ARRAYS:
        truth = getattr(whole, name)
        np.testing.assert_allclose(getattr(dataset, name), truth, rtol=0, atol=1e-9 * np.abs(truth).max())


def _start(path, ranks, pause):
    command = [sys.executable, "-c", RUN.format(path=str(path), size=SIZE, pause=pause)]
    if ranks > 1:
        command = ["mpirun", "--oversubscribe", "-n", str(ranks), *command]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return subprocess.Popen(
        command, env=environment, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def _first_write(path, process):
    """Wait until the run has taken the directory: before that a kill finds nothing to disturb."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_at_random_moments_again_and_again(whole, tmp_path, ranks):
    """SIGKILL of the whole run, or of one rank; every run gets a little further, the last one finishes."""
    rng, path, kills = random.Random(17 + ranks), tmp_path / "d", 0
    for attempt in range(40):
        # samples slow enough that no run ends before it is killed
        process = _start(path, ranks, pause=0.5 if attempt < 6 else 0.0)
        _first_write(path, process)
        if attempt < 6:
            time.sleep(rng.uniform(0.0, 0.7))
            kills += _kill(process, one_rank=ranks > 1 and attempt % 2 == 0)
        out, err = process.communicate(timeout=PATIENT)
        if process.returncode == 0:
            assert "COMPLETE" in out
            break
        assert attempt < 6, err
    assert kills >= 3
    dataset = hd.Dataset.open(path)
    assert dataset.verify() == 16
    _same(dataset, whole)
    leftovers = [p.name for p in path.rglob("*") if p.name.endswith(".partial") or p.name in (".lock", ".removing")]
    assert leftovers == []


def _kill(process, one_rank):
    """Kill the run's process group, or one of the two ranks, whereupon mpirun ends the other."""
    victim = process.pid
    if one_rank:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        victim = int(children[-1]) if children else process.pid
    try:
        (os.kill if one_rank else os.killpg)(victim, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupts_end_the_run_and_resume_continues_it(whole, tmp_path, sent):
    path = tmp_path / "d"
    process = _start(path, ranks=2, pause=FOR_EVER)
    _first_write(path, process)
    time.sleep(0.4)
    os.kill(process.pid, sent)
    process.communicate(timeout=PATIENT)
    assert process.returncode != 0
    out, err = _start(path, ranks=2, pause=0.0).communicate(timeout=PATIENT)
    assert "COMPLETE" in out, err
    _same(hd.Dataset.open(path), whole)


def test_full_disk_loses_nothing(models, whole, tmp_path, monkeypatch):
    """A write that fails half way, in every phase of a run."""
    import zarr.storage._local as local

    put, budget = local._put, [0]

    def until_full(path, value, exclusive=False):
        budget[0] -= 1
        if budget[0] < 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".0123.partial").write_bytes(b"half a chunk")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return put(path, value, exclusive)

    for writes in (3, 40, 25, 20, 30):
        monkeypatch.setattr(local, "_put", until_full)
        budget[0] = writes
        with pytest.raises(OSError, match="No space left"):
            hd.generate(models["vector"], tmp_path / "d", **SIZE, resume=True, progress=False)
        monkeypatch.setattr(local, "_put", put)
    dataset = hd.generate(models["vector"], tmp_path / "d", **SIZE, resume=True, progress=False)
    assert dataset.verify() == 16
    _same(dataset, whole)


def test_second_run_on_a_directory_is_refused(models, whole, tmp_path):
    path = tmp_path / "d"
    process = _start(path, ranks=1, pause=FOR_EVER)
    _first_write(path, process)
    try:
        with pytest.raises(DatasetError, match=r"another run writes to .* \(\{\"host\": .*\"pid\": \d+"):
            hd.generate(models["vector"], path, **SIZE, resume=True, progress=False)
        assert f'"pid": {process.pid}' in holder(path)
    finally:
        process.kill()
        process.communicate()
    assert holder(path) is None
    _same(hd.generate(models["vector"], path, **SIZE, resume=True, progress=False), whole)


def test_lock_outlives_neither_its_run_nor_its_file(tmp_path):
    first = DirectoryLock(tmp_path)
    with pytest.raises(DatasetError, match="another run writes to"):
        DirectoryLock(tmp_path)
    first.release()
    assert list(tmp_path.iterdir()) == []
    DirectoryLock(tmp_path).release()


@pytest.mark.parametrize("array", ["reduced_jacobian", "x", "status"])
def test_damaged_samples_alone_are_solved_again(models, tmp_path, monkeypatch, array):
    path = tmp_path / "d"
    before = hd.generate(models["vector"], path, **SIZE, progress=False)
    values = {name: getattr(before, name) for name in ARRAYS}
    for index in (3, 14):
        chunk = path / array / "c" / str(index)
        chunk = next((file for file in chunk.rglob("*") if file.is_file()), chunk)
        content = bytearray(chunk.read_bytes())
        content[len(content) // 2] ^= 4
        chunk.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"sample 3 of array '{array}' is damaged.*In all 2 samples.*\[3, 14\]"):
        hd.Dataset.open(path).verify()
    again, solve = [], SampleSolver.solve
    monkeypatch.setattr(SampleSolver, "solve", lambda self, index: again.append(index) or solve(self, index))
    repaired = hd.generate(models["vector"], path, **SIZE, resume=True, repair=True, progress=False)
    assert again == [3, 14]
    assert repaired.verify() == 16
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(repaired, name), values[name], atol=1e-9 * np.abs(values[name]).max())


def test_rank_that_leaves_its_mesh_does_not_hang_the_others(run_python, tmp_path):
    """One of two ranks that share a mesh raises between two collective operations; the other is in one of them."""
    code = f"""
import hippylib_dino as hd
import hippylib_dino.data.together as together
from mpi4py import MPI
from tests import problems
together.PATIENCE = 2.0
model = problems.linear(hd.sample_communicator(2))
if MPI.COMM_WORLD.rank == 1:
    def broken(u): raise TypeError("a bug on rank 1")
    model.observe_local = broken
hd.generate(model, {str(tmp_path / "d")!r}, n_samples=4, input_rank=3, output_rank=3, progress=False)
"""
    done = run_python(code, ranks=2, check=False)
    assert done.returncode != 0
    assert "a bug on rank 1" in done.stderr
    assert "The others of its mesh wait for it: the run ends." in done.stderr


def test_error_stops_the_other_groups_early(run_python, tmp_path):
    """The other rank ends its sample in flight, not its share of the whole run."""
    code = f"""
import time
from pathlib import Path
import hippylib_dino as hd
from hippylib_dino.data.solving import SampleSolver
from mpi4py import MPI
from tests import problems
model = problems.linear(hd.sample_communicator())
solved, solve, raised = [], SampleSolver.solve, Path({str(tmp_path / "raised")!r})
def count(self, index):
    solved.append(index)
    time.sleep(0.1)
    if MPI.COMM_WORLD.rank == 1:
        raised.touch()
        raise TypeError("a bug")
    while not raised.exists():
        time.sleep(0.01)
    return solve(self, index)
SampleSolver.solve = count
try:
    hd.generate(model, {str(tmp_path / "d")!r}, n_samples=200, n_basis_samples=100, input_rank=3, output_rank=3,
                progress=False)
except Exception as error:
    print("RANK", MPI.COMM_WORLD.rank, len(solved), type(error).__name__, flush=True)
"""
    out = run_python(code, ranks=2).stdout
    assert "RANK 1 1 TypeError" in out
    solved = int(next(line for line in out.splitlines() if line.startswith("RANK 0")).split()[2])
    assert solved < 100  # of some 250


def test_failures_of_all_ranks_are_counted_together(run_python, tmp_path):
    code = f"""
import hippylib_dino as hd
from hippylib_dino.data.solving import SampleSolver
from hippylib_dino.errors import SolveError
from mpi4py import MPI
from tests import problems
model = problems.linear(hd.sample_communicator())
def fail(self, index): raise SolveError("no")
SampleSolver.solve = fail
try:
    hd.generate(model, {str(tmp_path / "d")!r}, n_samples=50, input_rank=3, output_rank=3, max_failures=3,
                progress=False)
except hd.errors.GenerationError as error:
    print(error, flush=True)
"""
    out = run_python(code, ranks=2).stdout
    assert out.count("more than max_failures=3") == 2
    assert 4 <= len(hd.Dataset.open(tmp_path / "d").failures) <= 5


def test_run_that_failed_gives_the_directory_free(models, tmp_path, monkeypatch):
    def broken(self, index):
        raise hd.errors.SolveError("no")

    monkeypatch.setattr(SampleSolver, "solve", broken)
    with pytest.raises(GenerationError):
        hd.generate(models["linear"], tmp_path / "d", n_samples=4, input_rank=3, output_rank=3, max_failures=0,
                    progress=False)  # fmt: skip
    assert holder(tmp_path / "d") is None


def test_groups_of_several_ranks_share_the_samples(run_python, whole, tmp_path):
    """Four ranks, two a sample."""
    code = f"""
import hippylib_dino as hd
from tests import problems
model = problems.vector(hd.sample_communicator(2))
hd.generate(model, {str(tmp_path / "d")!r}, **{SIZE!r}, progress=False)
"""
    run_python(code, ranks=4)
    _same(hd.Dataset.open(tmp_path / "d"), whole)


def test_error_of_the_first_rank_alone_reaches_the_others(run_python, tmp_path):
    """Reading the status is what rank 0 does for all."""
    code = f"""
import hippylib_dino as hd
from mpi4py import MPI
from tests import problems
model = problems.linear(hd.sample_communicator())
size = dict(n_samples=4, input_rank=3, output_rank=3, progress=False)
path = {str(tmp_path / "d")!r}
hd.generate(model, path, **size)
if MPI.COMM_WORLD.rank == 0:
    open(path + "/status/c/1", "wb").write(b"nonsense")
MPI.COMM_WORLD.Barrier()
try:
    hd.generate(model, path, **size, resume=True)
except hd.errors.DatasetError as error:
    print("RANK", MPI.COMM_WORLD.rank, error, flush=True)
"""
    out = run_python(code, ranks=2).stdout
    assert out.count("is damaged") == 2
    assert "repair=True" in out


def test_damaged_first_pass_is_repaired(models, whole, tmp_path, monkeypatch):
    """A flipped byte in what the first pass keeps, before there are bases and after."""
    for stop in (6, 9):
        path, solve, calls = tmp_path / f"d{stop}", SampleSolver.solve, []

        def interrupted(self, index, calls=calls, stop=stop, solve=solve):
            calls.append(index)
            if len(calls) > stop - (stop == 6):
                raise KeyboardInterrupt
            return solve(self, index)

        monkeypatch.setattr(SampleSolver, "solve", interrupted)
        with pytest.raises(KeyboardInterrupt):
            hd.generate(models["vector"], path, **SIZE, progress=False)
        monkeypatch.setattr(SampleSolver, "solve", solve)
        chunk = path / "basis_samples" / "jacobian" / "c" / "2" / "0" / "0"
        content = bytearray(chunk.read_bytes())
        content[len(content) // 2] ^= 4
        chunk.write_bytes(content)
        assert hd.Dataset.open(path).damaged_basis_samples() == [2]
        d = hd.generate(models["vector"], path, **SIZE, resume=True, repair=True, progress=False)
        assert d.verify() == 16
        _same(d, whole)


def test_failure_that_a_later_solve_disproves_is_forgotten(models, tmp_path, monkeypatch):
    """Failed when it was tried first, solved when repaired: no failure is left to report."""
    solve = SampleSolver.solve

    def failing(self, index):
        if index == 13:
            raise hd.errors.SolveError("out of luck")
        return solve(self, index)

    monkeypatch.setattr(SampleSolver, "solve", failing)
    d = hd.generate(models["vector"], tmp_path / "d", **SIZE, progress=False)
    assert [f["index"] for f in d.failures] == [13]
    monkeypatch.setattr(SampleSolver, "solve", solve)
    chunk = tmp_path / "d" / "status" / "c" / "13"
    chunk.write_bytes(b"damaged")
    d = hd.generate(models["vector"], tmp_path / "d", **SIZE, resume=True, repair=True, progress=False)
    assert d.failures == []
    assert not list((tmp_path / "d" / "failures").glob("sample-*"))
    assert d.verify() == 16


def test_remedy_of_too_many_failures_works(models, whole, tmp_path, monkeypatch):
    """Resuming with a second way tries what failed, also where the first pass had stopped."""
    from hippylib_dino.modeling import JacobianModel

    solve_state = JacobianModel.solveState
    bad = [hd.data.draw_parameter(models["vector"].prior, 0, i) for i in (0, 1, 2)]

    def hard(self, m, guess=None):
        if guess is None and any((m - b).norm("linf") == 0.0 for b in bad):
            raise hd.errors.SolveError("Newton gave up")
        return solve_state(self, m, guess)

    monkeypatch.setattr(JacobianModel, "solveState", hard)
    with pytest.raises(GenerationError, match="resume with retry="):
        hd.generate(models["vector"], tmp_path / "d", **SIZE, max_failures=1, progress=False)
    d = hd.generate(
        models["vector"], tmp_path / "d", **SIZE, max_failures=1, resume=True, retry="continuation", progress=False
    )
    assert d.verify() == 16
    assert len(d.rescued) == 3
    _same(d, whole)

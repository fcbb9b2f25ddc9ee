from concurrent.futures import ThreadPoolExecutor

import pytest
from mpi4py import MPI

from hippylib_dino.errors import InputError
from hippylib_dino.modeling import sample_communicator

# two ranks "compile" at the same moment; each writes when it enters and when it leaves
COMPILE = """
import time
import dijitso
from mpi4py import MPI
import hippylib_dino as hd
import hippylib_dino.modeling  # hIPPYlib compiles when it is imported
def slow(jitable, name, params, *args, **kwargs):
    for word in ("enter", "leave"):
        with open({log!r}, "a") as f:
            f.write(f"{{word}} {{MPI.COMM_WORLD.rank}}\\n")
        time.sleep(0.5)
        while {both} and open({log!r}).read().count("enter") < 2:  # nobody leaves before the other has entered
            time.sleep(0.01)
dijitso.jit = slow
if {guard}:
    hd.sample_communicator()
    hd.sample_communicator()  # guarded once, however often it is asked for
MPI.COMM_WORLD.Barrier()
dijitso.jit(None, {name}, {{"cache": {{"cache_dir": {cache!r}}}}})
"""


def _overlaps(run_python, tmp_path, guard, *, apart=False, both=False, name="'no_such_library'"):
    log = tmp_path / f"log-{guard}"
    code = COMPILE.format(log=str(log), cache=str(tmp_path / "cache"), guard=guard, both=both, name=name)
    if apart:
        meet = tmp_path / "meet"  # in place of the barrier
        meet.mkdir()
        code = code.replace(
            "MPI.COMM_WORLD.Barrier()",
            f"import os, pathlib\npathlib.Path({str(meet)!r}, str(os.getpid())).touch()\n"
            f"while len(os.listdir({str(meet)!r})) < 2: time.sleep(0.01)",
        )
        with ThreadPoolExecutor(2) as pool:
            for run in [pool.submit(run_python, code) for _ in range(2)]:
                run.result()
    else:
        run_python(code, ranks=2)
    words = [line.split()[0] for line in log.read_text().splitlines()]
    assert sorted(words) == ["enter", "enter", "leave", "leave"]
    return words[:2] == ["enter", "enter"]


def test_one_rank_compiles_a_form_at_a_time(run_python, tmp_path):
    assert not _overlaps(run_python, tmp_path, guard=True)


def test_one_of_two_runs_beside_each_other_compiles_a_form_at_a_time(run_python, tmp_path):
    assert not _overlaps(run_python, tmp_path, guard=True, apart=True)


def test_different_forms_are_compiled_at_the_same_time(run_python, tmp_path):
    assert _overlaps(run_python, tmp_path, guard=True, both=True, name="f'library_{MPI.COMM_WORLD.rank}'")


def test_without_the_guard_ranks_compile_at_the_same_time(run_python, tmp_path):
    assert _overlaps(run_python, tmp_path, guard=False, both=True)


def test_world_and_groups(run_python):
    code = """
import hippylib_dino as hd
print([hd.sample_communicator(n).size for n in (1, 2, 4, None)])
"""
    assert run_python(code, ranks=4).stdout.count("[1, 2, 4, 4]") == 4


def test_without_mpirun_it_is_a_single_rank():
    assert sample_communicator(None).size == MPI.COMM_WORLD.size == 1


def test_ranks_that_do_not_divide_the_world_are_named():
    with pytest.raises(InputError, match="ranks_per_sample: expected a divisor of the 1 ranks of this run, got 2"):
        sample_communicator(2)

"""Generation on two hosts: network namespaces with TCP between them, and MPI that allows no calls from threads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hippylib_dino as hd

ROOT = Path(__file__).parents[2]
SIZE = {"n_samples": 12, "n_validation": 2, "n_test": 2, "n_basis_samples": 6, "input_rank": 6, "output_rank": 5}
PATIENT = 300  # seconds, which no loaded machine needs

# Nothing here has a name that others could take, and all of it ends with the process that made it: a namespace of
# processes with the first host's network in it, and the second host's network, held by one process.
TWO_HOSTS = """
set -eu
ip link set lo up
unshare --net sleep infinity &
second=$!
until [ "$(readlink /proc/$second/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
ip link add v0 type veth peer name v0 netns $second
ip addr add 10.77.0.1/24 dev v0
ip link set v0 up
nsenter --net=/proc/$second/ns/net ip link set lo up
nsenter --net=/proc/$second/ns/net ip addr add 10.77.0.2/24 dev v0
nsenter --net=/proc/$second/ns/net ip link set v0 up
cat >"$TMPDIR/agent" <<AGENT
#!/bin/bash
[ "\\$1" = 10.77.0.2 ] || exit 1
shift
exec nsenter --net=/proc/$second/ns/net bash -c "\\$*"
AGENT
chmod +x "$TMPDIR/agent"
if [ $# -gt 0 ]; then
  mpirun -n 2 --host 10.77.0.1:1,10.77.0.2:1 --mca plm_rsh_agent "$TMPDIR/agent" --mca btl tcp,self \\
    --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 "$@"
fi
"""

# the process of rank 1 ends its host: all that has the same network, itself last
KILL = """
def kill_this_host():
    def network(pid):
        try:
            return os.stat(f"/proc/{pid}/ns/net").st_ino
        except OSError:
            return None
    here = network("self")
    if here == network(1):
        raise RuntimeError("this is not the second host")
    for pid in sorted((p for p in os.listdir("/proc") if p.isdigit()), key=lambda p: int(p) == os.getpid()):
        if network(pid) == here:
            os.kill(int(pid), signal.SIGKILL)
"""

RUN = """
import os, signal, time
from mpi4py import MPI  # before dolfin, which asks for threads whatever the environment says
import hippylib_dino as hd
from hippylib_dino.data.handout import Handout
from hippylib_dino.data.solving import SampleSolver
from tests import problems
{kill}
world, solved, solve, iterate = MPI.COMM_WORLD, [], SampleSolver.solve, Handout.__iter__
def after_the_other(self):
    "Rank 0 takes none before rank 1 has one: there is work for both, however loaded the machine is."
    while world.rank == 0 and self._taken < min(1, len(self.indices)):
        self._answer_all()
        time.sleep(0.001)
    yield from iterate(self)
def unequal(self, index):
    solved.append(index)
    if {killed} and world.rank == 1 and len(solved) == 2:
        kill_this_host()
    if {killed} and world.rank == 0 and len(solved) == 3:
        time.sleep({for_ever})  # until mpirun ends it
    time.sleep(0.05 * world.rank)
    return solve(self, index)
Handout.__iter__, SampleSolver.solve = after_the_other, unequal
model = problems.linear(hd.sample_communicator())
hd.generate(model, {path!r}, **{size!r}, resume=True, progress=False)
print("SOLVED", world.rank, len(solved), MPI.Query_thread() == MPI.THREAD_MULTIPLE, flush=True)
"""


def _code(path, killed=False):
    return RUN.format(kill=KILL, path=str(path), size=SIZE, killed=killed, for_ever=2 * PATIENT)


@pytest.fixture(scope="module")
def on_two_hosts(tmp_path_factory):
    """Run code on two ranks, one on each of two hosts; skips the test where the system allows no namespaces.

    Also in continuous integration: permission for it is the machine's, and containers mostly have none.
    """
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    variables |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    variables["PATH"] += ":/usr/sbin:/sbin"  # where `ip` is, and not every user looks
    alone = ["--net", "--pid", "--mount-proc", "--fork", "--kill-child"]
    alone += [] if os.geteuid() == 0 else ["--map-root-user"]

    def run(*command, **environment):
        # processes are counted from 1 in each namespace, and Open MPI names its folder by them
        folder = {"TMPDIR": str(tmp_path_factory.mktemp("host"))}
        return subprocess.run(
            ["unshare", *alone, "bash", "-c", TWO_HOSTS, "hosts", *command], env={**variables, **folder, **environment},
            capture_output=True, text=True, timeout=PATIENT, cwd=ROOT,
        )  # fmt: skip

    for tool in ("unshare", "nsenter", "ip", "mpirun"):
        if shutil.which(tool, path=variables["PATH"]) is None:
            pytest.skip(f"no {tool} on this machine: there are no two hosts to be made of it")
    done = run()
    if done.returncode:
        pytest.skip(f"this machine does not let us make network namespaces: {done.stderr.strip()}")
    return lambda code, **environment: run(sys.executable, "-c", code, **environment)


@pytest.fixture(scope="module")
def one_host(models, tmp_path_factory):
    return hd.generate(models["linear"], tmp_path_factory.mktemp("hosts") / "one", **SIZE, progress=False)


def _same(path, truth):
    dataset = hd.Dataset.open(path)
    assert dataset.verify() == 16
    for name in ("x", "y", "reduced_jacobian"):
        expected = getattr(truth, name)
        np.testing.assert_allclose(getattr(dataset, name), expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def _solved(done):
    """Samples by rank, and whether MPI allowed calls from threads."""
    assert done.returncode == 0, done.stdout + done.stderr
    lines = sorted(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("SOLVED"))
    return [int(count) for _, count, _ in lines], {threads for _, _, threads in lines}


def test_two_hosts_make_the_dataset_of_one(on_two_hosts, one_host, tmp_path):
    counts, _ = _solved(on_two_hosts(_code(tmp_path / "d")))
    assert sum(counts) == 16
    assert min(counts) >= 1
    _same(tmp_path / "d", one_host)


def test_a_host_that_dies_is_made_good(on_two_hosts, one_host, tmp_path):
    """The second host ends in the middle of its second sample, daemon and all, and takes the run with it."""
    done = on_two_hosts(_code(tmp_path / "d", killed=True))
    assert done.returncode != 0
    assert "SOLVED" not in done.stdout
    assert not hd.Dataset.open(tmp_path / "d").complete
    counts, _ = _solved(on_two_hosts(_code(tmp_path / "d")))
    assert sum(counts) <= 14  # the two that the first host had finished stay
    _same(tmp_path / "d", one_host)


def test_samples_are_handed_out_where_mpi_allows_no_calls_from_threads(run_python, one_host, tmp_path):
    """Rank 0 answers between its samples."""
    done = run_python(_code(tmp_path / "d"), ranks=2, MPI4PY_RC_THREAD_LEVEL="single")
    counts, threads = _solved(done)
    assert threads == {"False"}
    assert sum(counts) == 16
    assert min(counts) >= 1
    _same(tmp_path / "d", one_host)

"""Memory, disk and ranks of data generation.

    python -m benchmarks.generation_scale

Starts itself under `mpirun` for each measurement; convection-reaction-diffusion, bases of rank 50.  Writes
benchmarks/results/generation_scale.md and benchmarks/results/generation_scale.png.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from applications.compiling import compile_for_this_processor
from benchmarks.tables import processor, table

RESULTS = Path(__file__).parent / "results"
N_BASIS = 32
RANK = 50
PASSES = ("bases", "samples")
app = typer.Typer()


@app.command()
def worker(path: Path, mesh_size: int, n_samples: int, every: int = 0) -> None:
    """One generation, on as many ranks as `mpirun` gives; prints memory of all ranks, and along the way."""
    from mpi4py import MPI

    import hippylib_dino as hd
    from applications import confusion
    from hippylib_dino.data.solving import SampleSolver

    compile_for_this_processor()
    model = confusion.build(hd.sample_communicator(), mesh_size)
    model.jacobian(model.prior.mean).to_dense()  # compiles what is not compiled
    history, solve = [], SampleSolver.solve

    def noting(self, index):
        if every and index % every == 0:
            history.append((index, memory()))
        return solve(self, index)

    SampleSolver.solve = noting
    hd.generate(
        model, path, n_samples=n_samples, n_validation=0, n_test=0, n_basis_samples=N_BASIS, input_rank=RANK,
        output_rank=RANK, progress=False,
    )  # fmt: skip
    peaks = MPI.COMM_WORLD.gather(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    histories = MPI.COMM_WORLD.gather(history)
    if MPI.COMM_WORLD.rank == 0:
        run = hd.Dataset.open(path).runs[-1]
        print("RESULT", json.dumps({"peaks": peaks, "histories": histories, "run": run}))


def memory() -> float:
    """Resident MiB of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def generate(path: Path, mesh_size: int, n_samples: int, ranks: int, every: int = 0) -> dict:
    """`worker` under mpirun."""
    command = [
        "mpirun",
        "--oversubscribe",
        "-n",
        str(ranks),
        sys.executable,
        "-m",
        "benchmarks.generation_scale",
        "worker",
    ]
    command += [str(path), str(mesh_size), str(n_samples), "--every", str(every)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT")).split(" ", 1)[1])


def bytes_a_sample(path: Path, n_samples: int) -> float:
    """Of the arrays that grow with the samples."""
    import hippylib_dino as hd

    names = hd.Dataset.open(path).sample_arrays
    return sum(f.stat().st_size for name in names for f in (path / name / "c").rglob("*") if f.is_file()) / n_samples


@app.command()
def main(
    many: Annotated[int, typer.Option(help="Samples of the memory run.")] = 2000,
    few: int = 100,
    compared: Annotated[int, typer.Option(help="Samples of the run on one and two ranks.")] = 256,
    repeats: int = 3,
) -> None:
    """Measure, print, write tables and figure."""
    scratch = Path(tempfile.mkdtemp())
    runs = {n: generate(scratch / f"memory-{n}", 64, n, ranks=2, every=max(1, many // 100)) for n in (few, many)}
    memory_rows = [[n, *(f"{peak:.0f}" for peak in run["peaks"])] for n, run in runs.items()]
    draw(runs[many]["histories"], RESULTS / "generation_scale.png")
    disk_rows = []
    for mesh_size in (32, 64, 128):
        path = scratch / f"disk-{mesh_size}"
        generate(path, mesh_size, 40, ranks=2)
        full = 8 * (mesh_size + 1) ** 2 * 51
        disk_rows.append([mesh_size, (mesh_size + 1) ** 2, f"{bytes_a_sample(path, 40):.0f}", f"{full:.0f}"])
    rank_rows, ratios = [], []
    for repeat in range(repeats):
        seconds = {}
        for ranks in (1, 2):
            run = generate(scratch / f"ranks-{ranks}-{repeat}", 64, compared, ranks)["run"]
            seconds[ranks] = sum(run[label]["seconds"] for label in PASSES)
        ratios.append(seconds[1] / seconds[2])
        rank_rows.append([repeat + 1, f"{seconds[1]:.1f}", f"{seconds[2]:.1f}", f"{ratios[-1]:.2f}"])
    shutil.rmtree(scratch)
    text = f"""# Data generation: memory, disk, ranks

Machine: {processor()}; `OMP_NUM_THREADS=1 python -m benchmarks.generation_scale`. Convection-reaction-diffusion,
dQ = 50, bases of rank {RANK} from {N_BASIS} samples.

## Peak memory of each of two ranks (MiB), 64x64

{table(["samples", "rank 0", "rank 1"], memory_rows)}

![Resident memory along the run](generation_scale.png)

## Stored bytes a sample, reduced mode

{table(["cells a side", "dM", "bytes a sample", "full m and J would be"], disk_rows)}

## One rank against two, {compared} samples at 64x64 (seconds in the two passes)

{table(["repetition", "1 rank", "2 ranks", "ratio"], rank_rows)}

Median ratio: **{np.median(ratios):.2f}**.
"""
    (RESULTS / "generation_scale.md").write_text(text)
    print(text)


def draw(histories: list, file: Path) -> None:
    """Resident memory against the sample's number, a line a rank."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    for rank, history in enumerate(histories):
        index, resident = np.array(sorted(history)).T
        axes.plot(index, resident, label=f"rank {rank}")
    axes.set(xlabel="sample", ylabel="resident memory (MiB)", title="Data generation, CRD 64×64, two ranks")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    app()

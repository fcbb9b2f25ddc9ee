"""Time of a MAP point: latent, by stock Newton-CG on the surrogate, and by the PDE.

    OMP_NUM_THREADS=1 python -m benchmarks.latent_inference

Takes the default DINOs of benchmarks/trust.py, and data that the PDE made.  Writes
benchmarks/results/latent_inference.md.
"""

from __future__ import annotations

import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import typer

import hippylib_dino as hd
from applications.compiling import compile_for_this_processor
from applications.study import compile_forms, solve_map
from benchmarks.tables import plain_model, processor, table
from benchmarks.trust import RANKS, observe, trained
from hippylib_dino.modeling.spaces import owned_values

HERE = Path(__file__).parent
N_PDE, N_SINGLE, N_BATCH, REPEATS = 5, 100, 256, 5
ONLINE = """
import sys, time
import numpy as np
start = time.perf_counter()
import hippylib_dino as hd
imported = time.perf_counter()
inference = hd.ReducedInference.load(sys.argv[1])
loaded = time.perf_counter()
data = np.load(sys.argv[2])
inference.map(data[0])
first = time.perf_counter()
field = inference.fields(inference.map(data[1]))
print(imported - start, loaded - imported, first - loaded, time.perf_counter() - first, "dolfin" in sys.modules)
"""


class Stopwatch:
    """Adds up the time that calls of one method of an object take."""

    def __init__(self, owner, name: str):
        self.seconds, inner = 0.0, getattr(owner, name)

        def timed(*args, **kwargs):
            start = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        setattr(owner, name, timed)


def synthetic(problem: str, noise: hd.NoiseCovariance, n: int) -> np.ndarray:
    """Data of held-out prior samples, observed by the PDE, with noise: (n, dQ)."""
    q = hd.Dataset.open(HERE / "output" / f"training_{problem}").split("test", n, jacobians=False).observable
    rng = np.random.default_rng(0)
    return q + np.array([noise.sample(rng) for _ in q])


def seconds_of(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def online(inference: hd.ReducedInference, data: np.ndarray, folder: Path) -> list[str]:
    """What a fresh process takes to import, to load, for its first MAP point and for another with its field."""
    inference.save(folder / "online.dino", overwrite=True)
    np.save(folder / "online.npy", data[:2])
    command = [sys.executable, "-c", ONLINE, str(folder / "online.dino"), str(folder / "online.npy")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def measure(problem: str) -> list:
    ranks = RANKS[problem]
    dino = trained(problem, "h1", 1024, ranks)
    model = import_module(f"applications.{problem}").build(hd.sample_communicator())
    plain = plain_model(model)
    for candidate in (model, plain):
        compile_forms(candidate)
    inference = hd.ReducedInference(dino, model.noise_covariance)
    data = synthetic(problem, model.noise_covariance, N_BATCH)
    inference.map(data[:2])
    single = np.median([seconds_of(lambda d=d: inference.map(d)) for d in data[:N_SINGLE]])
    batch = np.median([seconds_of(lambda: inference.map(data)) for _ in range(REPEATS)]) / N_BATCH
    fresh = online(inference, data, HERE / "output")
    prior = Stopwatch(model.prior.Rsolver, "solve")
    times: dict[str, list] = {"PDE": [], "plain": [], "surrogate": [], "prior": []}
    for index in range(N_PDE):
        observe(model, "prior", index)
        surrogate = hd.SurrogateModel(dino, model.prior, model.misfit)
        times["plain"].append(solve_map(plain)[2])
        times["PDE"].append(solve_map(model)[2])
        prior.seconds = 0.0
        times["surrogate"].append(solve_map(surrogate)[2])
        times["prior"].append(prior.seconds)
        inference.map(owned_values(model.misfit.d).copy())
    median = {name: float(np.median(values)) for name, values in times.items()}
    print(problem, median, single, batch, fresh, flush=True)
    return [
        problem,
        f"{median['plain']:.2f} s",
        f"{median['PDE']:.2f} s",
        f"{median['surrogate']:.3f} s",
        f"{median['prior']:.3f} s",
        f"{1e3 * single:.2f} ms",
        f"{1e3 * batch:.3f} ms",
        f"{median['PDE'] / median['surrogate']:.0f} / {median['plain'] / median['surrogate']:.0f}",
        f"{median['PDE'] / single:.0f} / {median['plain'] / single:.0f}",
        f"{median['PDE'] / batch:.0f} / {median['plain'] / batch:.0f}",
        " / ".join(f"{1e3 * float(v):.0f}" for v in fresh[:4]) + " ms",
    ]


def main(output: Path = HERE / "results" / "latent_inference.md") -> None:
    """Measure both problems, write the table."""
    compile_for_this_processor()
    rows = [measure(problem) for problem in RANKS]
    header = ["problem", "plain hIPPYlib", "accelerated PDE", "surrogate, Newton-CG", "of that, prior solves"]
    header += ["latent, one", f"latent, each of {N_BATCH}", "surrogate gains", "latent gains", "batch gains"]
    header += ["fresh process: import / load / first / next"]
    text = f"""# Time of a MAP point

Machine: {processor()}; command: see `benchmarks/latent_inference.py`.  Medians of {N_PDE} data sets (PDE, surrogate),
{N_SINGLE} (one) and {REPEATS} batches, to a relative gradient of 1e-6, all in one run.  All data are of the PDE at
held-out prior samples, with noise; the DINO is that of trust_maps.md ("h1", N = 1024, `hd.train`'s defaults).  Gains
are over the accelerated PDE / plain hIPPYlib.
A fresh process imports the package, loads DINO and noise, solves one data set, then another with its field; no dolfin.

{table(header, rows)}
"""
    output.write_text(text)
    print(text)


if __name__ == "__main__":
    typer.run(main)

"""What an epoch of training costs on a GPU, beside what the card's arithmetic and memory would allow.

    KERAS_BACKEND=jax python -m benchmarks.training_gpu

Needs neither FEniCS nor a dataset: N = 4096 samples of a random smooth map at ranks (200, 100), since time depends on
shapes alone.  Writes benchmarks/results/training_gpu.md.
"""

from __future__ import annotations

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import keras
import numpy as np
import typer

from benchmarks.tables import table
from hippylib_dino.data.dataset import Samples
from hippylib_dino.network import ReducedDense
from hippylib_dino.network.batches import Batches
from hippylib_dino.network.formulations import H1, L2, JacobianFormulation, SketchedH1
from hippylib_dino.network.losses import SquaredNorm
from hippylib_dino.network.optimizers import get_optimizer

HERE = Path(__file__).parent
N, INPUT_RANK, OUTPUT_RANK, HIDDEN = 4096, 200, 100, (192, 192, 192)
EPOCHS = 6
BATCHES = (32, 256, 1024)


def samples() -> Samples:
    """Of q = A tanh(B x), with its Jacobian."""
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((OUTPUT_RANK, 150)) / 10, rng.standard_normal((150, INPUT_RANK)) / 15
    x = rng.standard_normal((N, INPUT_RANK))
    t = np.tanh(x @ B.T)
    J = np.matmul(A[None] * (1 - t**2)[:, None, :], B)
    y = t @ A.T
    energies = (y**2).sum(axis=1), (J**2).sum(axis=(1, 2))
    return Samples(np.arange(N), x, y, *energies, reduced_jacobian=J)


def limits() -> tuple[float, float]:
    """Rates of this card: arithmetic of a float32 matrix product as the network does it, and copied bytes, a second."""
    n = 8192
    a = jax.random.normal(jax.random.PRNGKey(0), (n, n), dtype=jnp.float32)
    long = jnp.zeros(8 * n * n, dtype=jnp.float32)  # long enough that the launch does not count
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda a: a + 1.0)
    return 2 * n**3 / seconds(product, a), 2 * long.nbytes / seconds(copy, long)


def seconds(function, *arguments) -> float:
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def model_of(formulation, steps: int):
    network = ReducedDense(INPUT_RANK, OUTPUT_RANK, hidden=HIDDEN, input_scale=(1.0,) * INPUT_RANK, output_scale=1.0)
    model = network.keras_model(0, formulation.outputs(INPUT_RANK, OUTPUT_RANK))
    loss = {"observable": SquaredNorm()}
    if isinstance(formulation, JacobianFormulation):
        loss["jacobian"] = SquaredNorm()
    model.compile(optimizer=get_optimizer("muon", None, steps)[0], loss=loss, jit_compile=True)
    return model


class Clock(keras.callbacks.Callback):
    """Seconds of each epoch."""

    def on_train_begin(self, logs=None):
        self.times = [time.perf_counter()]

    def on_epoch_end(self, epoch, logs=None):
        self.times.append(time.perf_counter())


def by_keras(data: Samples, formulation, batch_size: int) -> tuple[float, float]:
    """Seconds of an epoch as `hd.train` runs it, and of that to put batches together."""
    batches = Batches(data, data.x, formulation, 1.0, batch_size, seed=0)
    clock = Clock()
    model_of(formulation, EPOCHS * len(batches)).fit(
        batches, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[clock]
    )
    start = time.perf_counter()
    for i in range(len(batches)):
        batches[i]
    return float(np.median(np.diff(clock.times)[2:])), time.perf_counter() - start


def on_the_card(data: Samples, batch_size: int) -> tuple[float, float, float]:
    """Seconds of an epoch of the same H1 training as one compiled loop over data that stay on the card; its arithmetic
    and the bytes that its steps touch, as XLA counts them."""
    model = model_of(H1(), EPOCHS * N // batch_size)
    model.optimizer.build(model.trainable_variables)
    x, y, J = (jnp.asarray(a, jnp.float32) for a in (data.x, data.y, data.reduced_jacobian))
    wJ = jnp.asarray(1 / data.jacobian_energy, jnp.float32)
    fixed = [v.value for v in model.non_trainable_variables]

    def loss(trainable, x, y, J, wJ):
        out, _ = model.stateless_call(trainable, fixed, x)
        value = ((out["observable"] - y) ** 2).sum()
        return (value + wJ @ ((out["jacobian"] - J) ** 2).sum(axis=(1, 2))) / batch_size

    def step(state, pick):
        trainable, optimizer = state
        gradient = jax.grad(loss)(trainable, x[pick], y[pick], J[pick], wJ[pick])
        return model.optimizer.stateless_apply(optimizer, gradient, trainable), None

    @jax.jit
    def epoch(state, order):
        return jax.lax.scan(step, state, order)[0]

    state = ([v.value for v in model.trainable_variables], [v.value for v in model.optimizer.variables])
    order = jnp.asarray(np.random.default_rng(0).permutation(N).reshape(-1, batch_size))
    one = jax.jit(step).lower(state, order[0]).compile().cost_analysis()
    one = one[0] if isinstance(one, list) else one
    steps = len(order)
    return seconds(epoch, state, order), steps * one["flops"], steps * one["bytes accessed"]


def main(output: Path = HERE / "results" / "training_gpu.md") -> None:
    """All measurements."""
    data = samples()
    rate, bandwidth = limits()
    print(f"{rate:.3g} flop/s, {bandwidth:.3g} B/s", flush=True)
    rows = []
    for batch_size in BATCHES:
        looped, flops, touched = on_the_card(data, batch_size)
        for name, formulation in (("l2", L2()), ("h1", H1()), ("h1_sketched, 8", SketchedH1(n_directions=8))):
            epoch, assembling = by_keras(data, formulation, batch_size)
            cells = [f"{1e3 * epoch:.0f} ms", f"{1e3 * epoch * batch_size / N:.2f} ms", f"{1e3 * assembling:.0f} ms"]
            h1 = [f"{1e3 * looped:.1f} ms", f"{1e3 * flops / rate:.2f} ms", f"{1e3 * touched / bandwidth:.1f} ms"]
            rows.append([batch_size, name, *cells, *(h1 if name == "h1" else ["", "", ""])])
            print(rows[-1], flush=True)
    header = ["batch", "formulation", "epoch", "a step", "of it batches on the host"]
    header += ["epoch in one loop, data on the card", "arithmetic limit", "memory limit"]
    device = jax.devices()[0].device_kind
    note = (
        f"{device}; Keras {keras.__version__} on JAX {jax.__version__}, float32. Limits: XLA's count of one step's "
        f"operations and of the bytes it touches, at rates measured in the same run, {rate / 1e12:.0f} TFLOP/s "
        f"of a float32 matrix product and {bandwidth / 1e12:.2f} TB/s. Medians."
    )
    heading = f"# An epoch on a GPU: N = {N}, ranks ({INPUT_RANK}, {OUTPUT_RANK}), network 3 × {HIDDEN[0]}"
    output.write_text(f"{heading}\n\n{note}\nCommand: see `benchmarks/training_gpu.py`.\n\n{table(header, rows)}\n")


if __name__ == "__main__":
    typer.run(main)

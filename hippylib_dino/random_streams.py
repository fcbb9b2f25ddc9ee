"""The registry of random streams: one purpose, one stream, whatever the seeds.

NumPy's `SeedSequence` fills its entropy with zeros, so that the seeds (s,) and (s, 0) are one, and concatenates entropy
and spawn key.  Streams told apart by entries that a caller appends to a seed therefore collide: entry i of one user's
tuple is another's index.  Here a seed and an index of any length are hashed together with the purpose by SHA-256 of an
encoding that no two of them share.  Draws of different purposes, seeds or indices are then independent.

The samples of a dataset, of all three splits, are older than this registry: sample i has `stream(seed, i)`, its control
`stream((seed, CONTROLS), i)`, and probe i of the bases `stream((seed, PROBES), i)`.  Datasets on disk are resumed and
enlarged, hence these stay as they are.  They differ from one another for seeds below 2³², and from all others, which
have entropy of 256 bits.  What is learned from a dataset (batches of a training, bases) is a function of its own seed
and never compared with a draw.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

Seed = int | Sequence[int]
PROBES, CONTROLS = 1, 2  # beside the samples of a dataset


class Purpose(enum.Enum):
    """What random numbers are for; the value is what is hashed, and not to be changed."""

    BOOTSTRAP = "bootstrap"
    CERTIFICATE = "random direction of a certificate"
    CHAIN = "steps of a chain"
    CHAIN_START = "start of a chain"
    DERIVATIVE_CHECK = "point and direction of the check of the Jacobian"
    DERIVATIVE_CHECK_CONTROL = "controls of the check of the Jacobian"
    DESIGN_DRAWS = "parameters of a criterion's draws"
    DESIGN_NOISE = "noise of a criterion's draws"
    ENRICHMENT = "enrichment draws"
    LAPLACE_START = "start of a chain from a Laplace approximation"
    MAP_SEARCH = "where searches of a surrogate's MAP point start"
    NESTED = "inner samples of nested Monte Carlo"
    PDE_ENSEMBLE = "samples of an ensemble of the PDE"
    RANDOM_DESIGNS = "random designs"
    SENSOR_CHECK = "point of the check of the sensors"
    SURROGATE_ALONE = "samples of the surrogate in forward UQ"
    SURROGATE_CHAIN = "the surrogate's own chain"
    SURROGATE_ENSEMBLE = "samples of an ensemble of the surrogate"
    TRUTH = "a truth"
    TRUTH_NOISE = "noise of synthetic data"
    TUNING_START = "where the step of a surrogate's chain is tuned"
    UQ_PDE = "samples of the PDE in forward UQ"
    VERDICT = "parameters of the PDE's verdict on designs"
    VERDICT_NOISE = "noise of the PDE's verdict on designs"


def stream(seed: Seed, index: int) -> np.random.Generator:
    """The random stream of sample `index` of a dataset, whatever rank draws it and whatever was drawn before."""
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(index,)))


def seed_of(purpose: Purpose, seed: Seed = 0, *index: int) -> tuple[int, ...]:
    """The seed of a purpose and index as a tuple of eight words of 32 bits, for functions that take a seed."""
    words = [purpose.value, _flat(seed), _flat(index)]
    digest = hashlib.sha256(repr(words).encode()).digest()
    return tuple(int.from_bytes(digest[k : k + 4], "little") for k in range(0, 32, 4))


def generator(purpose: Purpose, seed: Seed = 0, *index: int) -> np.random.Generator:
    """The random numbers of a purpose, seed and index."""
    return np.random.default_rng(seed_of(purpose, seed, *index))


def _flat(numbers: Seed | Iterable[int]) -> list[int]:
    return [int(n) for n in np.atleast_1d(np.asarray(numbers, dtype=object)).tolist()]

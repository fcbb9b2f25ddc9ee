"""The registry of random streams: no two purposes share a draw, and datasets keep theirs."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest

from hippylib_dino.random_streams import CONTROLS, PROBES, Purpose, generator, seed_of, stream

SEEDS = [0, 1, 2, 7, (0, 0), (0, 1), (1, 0), (2, 0), (0, 0, 0), (1, 2, 3), 2**32, 2**40 + 1, (2**40, 0)]
INDICES = [(), (0,), (1,), (2,), (0, 0), (1, 0), (0, 1)]


def first(rng):
    return tuple(rng.integers(0, 2**63, 2))


def of_registry(purpose):
    """First draws, by where they are from: of generators, and of the seeds that are handed on to `draw_parameter`."""
    found = {("generator", seed, index): first(generator(purpose, seed, *index)) for seed in SEEDS for index in INDICES}
    return found | {("seed", s, i): first(stream(seed_of(purpose, s), i)) for s in SEEDS for i in range(3)}


def of_dataset(seed):
    """Samples, probes and controls of a dataset."""
    kinds = {"samples": seed, "probes": (seed, PROBES), "controls": (seed, CONTROLS)}
    return {(kind, seed, i): first(stream(s, i)) for kind, s in kinds.items() for i in range(8)}


@pytest.fixture(scope="module")
def draws():
    return {p: of_registry(p) for p in Purpose} | {
        "dataset": {k: v for s in range(8) for k, v in of_dataset(s).items()}
    }


def test_no_two_purposes_share_a_draw_whatever_the_seeds(draws):
    for a, b in combinations(draws, 2):
        assert not set(draws[a].values()) & set(draws[b].values()), (a, b)


def test_no_two_seeds_or_indices_of_a_purpose_share_a_draw(draws):
    for purpose, own in draws.items():
        assert len(set(own.values())) == len(own), purpose


def test_what_numpy_takes_for_one_seed_would_share():
    """The negative control: zeros pad the entropy, so that entries appended to a seed do not tell draws apart."""
    assert first(stream((3, 0), 5)) == first(stream(3, 5))


def test_samples_of_datasets_are_what_they_were():
    """So that datasets that were made earlier are resumed and enlarged."""
    expected = np.random.default_rng(np.random.SeedSequence(entropy=5, spawn_key=(9,)))
    assert first(stream(5, 9)) == first(expected)
    assert (PROBES, CONTROLS) == (1, 2)


def test_equal_seeds_give_equal_draws():
    assert first(generator(Purpose.CHAIN, 3, 4)) == first(generator(Purpose.CHAIN, (3,), 4))
    assert len(seed_of(Purpose.CHAIN, 3)) == 8


def test_needs_no_dolfin():
    code = "import sys, hippylib_dino.random_streams; sys.exit('dolfin' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

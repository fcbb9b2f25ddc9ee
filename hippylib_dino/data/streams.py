"""One random stream a sample, so that a sample depends on (seed, index) alone."""

from __future__ import annotations

import dolfin as dl
import numpy as np

from hippylib_dino.modeling.spaces import set_owned_values


def stream(seed: int, index: int) -> np.random.Generator:
    """The random stream of sample `index`, whatever rank draws it and whatever was drawn before."""
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(index,)))


def draw_parameter(prior, seed: int, index: int) -> dl.Vector:
    """Sample `index` of the prior: a new parameter vector, mean included.

    Examples
    --------
    >>> import hippylib_dino as hd
    >>> m = hd.data.draw_parameter(model.prior, seed=0, index=7)  # doctest: +SKIP
    """
    noise = dl.Vector(prior.R.mpi_comm())
    prior.init_vector(noise, "noise")
    first, last = noise.local_range()
    set_owned_values(noise, stream(seed, index).standard_normal(noise.size())[first:last])
    m = prior.mean.copy()
    prior.sample(noise, m, add_mean=True)
    return m

"""Fixtures of the chains' tests."""

import pytest

from tests.mcmc import gaussian


@pytest.fixture(scope="module")
def problem(linear_dino):
    return gaussian.build(linear_dino)

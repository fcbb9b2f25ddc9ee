"""Residual networks that get their layers one by one."""

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError
from hippylib_dino.network import ReducedDense, ReducedResNet
from hippylib_dino.network.growing import _grown

RANKS = (24, 30)
QUICK = {"epochs": 15, "batch_size": 8, "progress": False}


@pytest.fixture(scope="module")
def grown(confusion_dataset):
    network = ReducedResNet(*RANKS, depth=3, layer_rank=16)
    return hd.train_growing(confusion_dataset, architecture=network, tolerance=-np.inf, **QUICK)


def test_all_layers_are_added_where_none_has_to_pay(grown):
    history = grown.training["history"]
    assert grown.training["epochs"] == len(history["loss"]) == 3 * QUICK["epochs"]
    assert 1 <= grown.architecture.depth <= 3


def test_depth_of_the_least_validation_loss_is_kept(grown):
    losses = np.array(grown.training["history"]["val_loss"]).reshape(3, -1)
    assert grown.architecture.depth == 1 + np.argmin(losses[:, -1])  # of the weights that each depth ends with
    assert grown.training["n_selection"] == 8


def test_a_new_layer_does_not_change_the_map(grown, rng):
    deeper, x = _grown(grown, grown.architecture.depth + 1, seed=5), rng.standard_normal((4, 24))
    assert deeper.architecture.depth == grown.architecture.depth + 1
    for a, b in zip(deeper.latent_map.value_and_jacobian(x), grown.latent_map.value_and_jacobian(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert np.abs(deeper.weights[-4]).max() == 0.0
    assert np.abs(deeper.weights[-6]).max() > 0.0


def test_growth_ends_where_a_layer_does_not_pay(confusion_dataset):
    network = ReducedResNet(*RANKS, depth=5, layer_rank=16)
    dino = hd.train_growing(confusion_dataset, architecture=network, tolerance=1.0, **QUICK)
    assert dino.training["epochs"] == 2 * QUICK["epochs"]


def test_other_architectures_are_refused(confusion_dataset):
    with pytest.raises(InputError, match="architecture: expected a ReducedResNet with depth of at least 1"):
        hd.train_growing(confusion_dataset, architecture=ReducedDense(*RANKS), **QUICK)

"""The neural operator: blocks with both derivative sweeps, training, the trained DINO."""

import importlib

from hippylib_dino.network.architecture import ReducedDense, ReducedProduct, ReducedResNet
from hippylib_dino.network.baselines import kernel_regression, linear_model
from hippylib_dino.network.dino import DINO
from hippylib_dino.network.ensemble import Ensemble, ensemble_of, train_ensemble
from hippylib_dino.network.full import FullDense
from hippylib_dino.network.kernel import KernelRegression
from hippylib_dino.network.latent_map import LatentMap
from hippylib_dino.network.polynomial import Polynomial
from hippylib_dino.network.reliability import Calibration, calibration
from hippylib_dino.network.stock import StockNetwork

__all__ = [
    "Calibration",
    "DINO",
    "Ensemble",
    "FullDense",
    "KernelRegression",
    "LatentMap",
    "Polynomial",
    "ReducedDense",
    "ReducedProduct",
    "ReducedResNet",
    "StockNetwork",
    "calibration",
    "ensemble_of",
    "kernel_regression",
    "linear_model",
    "report",
    "search",
    "train",
    "train_ensemble",
    "train_growing",
]


def __getattr__(name: str):
    """Training needs Keras, a report Matplotlib; loading and evaluating a DINO does not."""
    home = {"report": "reporting", "search": "searching", "train": "training", "train_growing": "growing"}
    if name not in home:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home[name]}"), name)

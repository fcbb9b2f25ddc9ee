"""Derivative-informed neural operators for hIPPYlib.

Importing this package is free: dolfin, hippylib and Keras are imported by the first name that
needs them.

Reference: O'Leary-Roseberry, Chen, Villa, Ghattas, "Derivative-Informed Neural Operator",
J. Comput. Phys. 496 (2024) 112555, arXiv 2206.10745.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOME = {
    "AcceleratedVariationalProblem": "modeling",
    "ControlProblem": "modeling",
    "CovarianceStateObservation": "modeling",
    "DINO": "network",
    "Dataset": "data",
    "Jacobian": "modeling",
    "JacobianModel": "modeling",
    "NoiseCovariance": "noise",
    "ReducedInference": "inference",
    "SurrogateModel": "surrogate",
    "SurrogateProblem": "surrogate",
    "calibration": "network",
    "certify": "surrogate",
    "certify_laplace": "surrogate",
    "enrich": "surrogate",
    "generate": "data",
    "kernel_regression": "network",
    "laplace": "surrogate",
    "linear_model": "network",
    "refine": "surrogate",
    "report": "network",
    "sample_communicator": "modeling",
    "search": "network",
    "taylor_expansion": "surrogate",
    "train": "network",
    "train_ensemble": "network",
    "train_growing": "network",
}
_SUBPACKAGES = (
    "data",
    "errors",
    "inference",
    "mcmc",
    "modeling",
    "network",
    "oed",
    "ouu",
    "plotting",
    "reduction",
    "surrogate",
    "uq",
)

__all__ = ["__version__", *_HOME, *_SUBPACKAGES]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

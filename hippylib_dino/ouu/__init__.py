"""Optimization under uncertainty: control problems, distributions of controls."""

import importlib

from hippylib_dino.control import ControlDistribution, GaussianControl, UniformControl, control_from_config

__all__ = [
    "CONTROL",
    "CoefficientSpace",
    "ControlDistribution",
    "ControlProblem",
    "GaussianControl",
    "UniformControl",
    "control_from_config",
]

_NEEDS_DOLFIN = {
    "CONTROL": "hippylib_dino.modeling",
    "CoefficientSpace": "hippylib_dino.modeling",
    "ControlProblem": "hippylib_dino.modeling",
}


def __getattr__(name: str):
    """Control problems need dolfin; distributions do not."""
    if name not in _NEEDS_DOLFIN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_NEEDS_DOLFIN[name]), name)

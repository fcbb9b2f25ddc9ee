"""Reduced bases of parameters and observables."""

import importlib

from hippylib_dino.reduction.basis import Basis

__all__ = [
    "Basis",
    "derivative_input_basis",
    "derivative_output_basis",
    "identity_output_basis",
    "kle_input_basis",
    "pod_output_basis",
    "pod_state_basis",
]


def __getattr__(name: str):
    """The functions that build bases need dolfin; `Basis` itself does not."""
    if name in ("derivative_input_basis", "kle_input_basis"):
        home = "input"
    elif name in ("derivative_output_basis", "identity_output_basis", "pod_output_basis", "pod_state_basis"):
        home = "output"
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)

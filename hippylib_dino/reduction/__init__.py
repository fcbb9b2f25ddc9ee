"""Reduced bases of parameters and observables."""

from hippylib_dino.reduction.basis import Basis

__all__ = ["Basis", "derivative_input_basis", "derivative_output_basis", "kle_input_basis", "pod_output_basis"]


def __getattr__(name: str):
    """The functions that build bases need dolfin; `Basis` itself does not."""
    if name in ("derivative_input_basis", "kle_input_basis"):
        from hippylib_dino.reduction import input as module
    elif name in ("derivative_output_basis", "pod_output_basis"):
        from hippylib_dino.reduction import output as module
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)

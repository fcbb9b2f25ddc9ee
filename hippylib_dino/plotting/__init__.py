"""Figures and ParaView export.

Importing this package is free: Matplotlib and dolfin are imported by the first name that needs
them, and the curves never need dolfin.  Every function returns a `matplotlib.figure.Figure` that
belongs to no window and no global state; `save` writes it.
"""

from __future__ import annotations

import importlib

_HOME = {
    "plot_bases": "training",
    "plot_calibration": "calibration",
    "plot_chains": "chains",
    "plot_control_variate": "forward_uq",
    "plot_controls": "ouu",
    "plot_convergence": "ouu",
    "plot_dataset": "generation",
    "plot_design": "oed",
    "plot_directions": "training",
    "plot_eigenvalues": "curves",
    "plot_enrichment": "enrichment",
    "plot_error_against_size": "training",
    "plot_error_shares": "training",
    "plot_fields": "fields",
    "plot_gain": "oed",
    "plot_history": "curves",
    "plot_modes": "fields",
    "plot_observables": "curves",
    "plot_prediction": "training",
    "plot_quantity": "ouu",
    "plot_random_designs": "oed",
    "plot_sample_errors": "training",
    "plot_spectra": "curves",
    "save": "figures",
    "write_xdmf": "fields",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

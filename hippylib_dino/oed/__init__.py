"""Optimal experimental design with a DINO: criteria in latent coordinates, searches, the PDE's verdict."""

from __future__ import annotations

import importlib

_HOME = {
    "ATrace": "criteria",
    "Assessment": "assessment",
    "Budget": "constraints",
    "Criterion": "criteria",
    "DLogDet": "criteria",
    "Design": "search",
    "Draws": "experiment",
    "Estimate": "criteria",
    "GoalVariance": "criteria",
    "InformationGain": "criteria",
    "MinimalDistance": "constraints",
    "NestedEstimate": "nested",
    "PDECriteria": "pde",
    "PDEResult": "pde",
    "RelaxedDesign": "relaxation",
    "assess": "assessment",
    "exhaustive": "search",
    "greedy": "search",
    "mass_gram": "pde",
    "nested_monte_carlo": "nested",
    "random_designs": "search",
    "relaxed": "relaxation",
    "swapping_greedy": "search",
    "variance_reduction": "variance",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

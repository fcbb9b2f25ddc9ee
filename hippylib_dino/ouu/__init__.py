"""Optimization under uncertainty: risk measures, ensembles, the optimal control, and what the PDE says of it."""

import importlib

from hippylib_dino.control import ControlDistribution, GaussianControl, UniformControl, control_from_config
from hippylib_dino.ouu.assessment import Assessment, RiskEstimate, assess
from hippylib_dino.ouu.ensembles import Ensemble, SurrogateEnsemble
from hippylib_dino.ouu.minimization import ExtrapolationWarning, Iterate, OptimalControl, minimize
from hippylib_dino.ouu.objective import Objective
from hippylib_dino.ouu.penalties import L1Penalty, L2Penalty, Penalty
from hippylib_dino.ouu.polishing import CorrectedEnsemble, polish
from hippylib_dino.ouu.quantities import LatentQuadratic, LatentQuantity
from hippylib_dino.ouu.risk import (
    CVaR,
    Entropic,
    Expansion,
    Expectation,
    JointExpansion,
    MeanVariance,
    RiskMeasure,
    SmoothedRisk,
    WorstCase,
    parse_risk,
)
from hippylib_dino.ouu.smoothing import SmoothingWarning

# what needs dolfin, by its home
_PDE_SIDE = {
    "CONTROL": "hippylib_dino.modeling.control_forms",
    "CoefficientSpace": "hippylib_dino.modeling.control_forms",
    "ControlProblem": "hippylib_dino.modeling.control_problem",
    "FormQuantity": "hippylib_dino.modeling.quantities",
    "PDEEnsemble": "hippylib_dino.ouu.pde_ensemble",
    "SurrogateControlProblem": "hippylib_dino.surrogate.control",
    "dissipation": "hippylib_dino.modeling.quantities",
    "flux": "hippylib_dino.modeling.quantities",
    "tracking": "hippylib_dino.modeling.quantities",
}

__all__ = [
    "Assessment",
    "CVaR",
    "ControlDistribution",
    "CorrectedEnsemble",
    "Ensemble",
    "Entropic",
    "Expansion",
    "Expectation",
    "ExtrapolationWarning",
    "GaussianControl",
    "Iterate",
    "JointExpansion",
    "L1Penalty",
    "L2Penalty",
    "LatentQuadratic",
    "LatentQuantity",
    "MeanVariance",
    "Objective",
    "OptimalControl",
    "Penalty",
    "RiskEstimate",
    "RiskMeasure",
    "SmoothedRisk",
    "SmoothingWarning",
    "SurrogateEnsemble",
    "UniformControl",
    "WorstCase",
    "assess",
    "control_from_config",
    "minimize",
    "parse_risk",
    "polish",
    *_PDE_SIDE,
]


def __getattr__(name: str):
    """Control problems need dolfin; risk measures and surrogate ensembles do not."""
    if name not in _PDE_SIDE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PDE_SIDE[name]), name)

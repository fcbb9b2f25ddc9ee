"""Optimization under uncertainty: risk measures, ensembles, the optimal control, and what the PDE says of it."""

from hippylib_dino.ouu.assessment import Assessment, RiskEstimate, assess
from hippylib_dino.ouu.ensembles import ControlRange, Ensemble, SurrogateEnsemble
from hippylib_dino.ouu.minimization import ExtrapolationWarning, Iterate, OptimalControl, minimize
from hippylib_dino.ouu.objective import Objective
from hippylib_dino.ouu.penalties import L1Penalty, L2Penalty, Penalty
from hippylib_dino.ouu.quantities import LatentQuadratic, LatentQuantity
from hippylib_dino.ouu.risk import (
    CVaR,
    Entropic,
    Expansion,
    Expectation,
    JointExpansion,
    MeanVariance,
    RiskMeasure,
    WorstCase,
)

__all__ = [
    "Assessment",
    "CVaR",
    "ControlRange",
    "Ensemble",
    "Entropic",
    "Expansion",
    "Expectation",
    "ExtrapolationWarning",
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
    "SurrogateEnsemble",
    "WorstCase",
    "assess",
    "minimize",
]

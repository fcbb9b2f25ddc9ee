"""Forward uncertainty quantification with the surrogate as control variate, never biased by it."""

from hippylib_dino.uq.control_variate import ControlVariate, control_variate, optimal_allocation
from hippylib_dino.uq.estimators import Estimate, Exceedance, Mean, Variance, estimate
from hippylib_dino.uq.law import GaussianLaw

__all__ = [
    "ControlVariate",
    "Estimate",
    "Exceedance",
    "GaussianLaw",
    "Mean",
    "Variance",
    "control_variate",
    "estimate",
    "optimal_allocation",
]

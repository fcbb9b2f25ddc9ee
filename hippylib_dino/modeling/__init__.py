"""What the PDE side exports: observable, Jacobian, noise, fingerprint, communicators."""

from hippylib_dino.modeling.communicators import sample_communicator, serialize_compilation
from hippylib_dino.modeling.control_forms import CONTROL, CoefficientSpace
from hippylib_dino.modeling.control_problem import ControlProblem
from hippylib_dino.modeling.derivative_check import DerivativeError, derivative_errors
from hippylib_dino.modeling.fingerprint import check_fingerprint, fingerprint, prior_fingerprint
from hippylib_dino.modeling.initial_guess import (
    GuessWork,
    LinearizedPrediction,
    MeanState,
    NearestSample,
    SampleRegression,
    compare_guesses,
)
from hippylib_dino.modeling.jacobian import Jacobian, PDEJacobian
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.linear_solver import LinearSolver
from hippylib_dino.modeling.newton import ForwardSolveError, NewtonOptions, SolveReport
from hippylib_dino.modeling.observable_map import ParameterToObservable
from hippylib_dino.modeling.observation import CovarianceStateObservation, ObservableMisfit
from hippylib_dino.modeling.spaces import DofOrder, owned_values, set_owned_values
from hippylib_dino.modeling.stationarity import decrease_left, stopped_by_rounding
from hippylib_dino.modeling.variational_problem import AcceleratedVariationalProblem
from hippylib_dino.modeling.verify import cost_rates, observable_rates
from hippylib_dino.noise import NoiseCovariance

__all__ = [
    "AcceleratedVariationalProblem",
    "CONTROL",
    "CoefficientSpace",
    "ControlProblem",
    "CovarianceStateObservation",
    "DerivativeError",
    "DofOrder",
    "ForwardSolveError",
    "GuessWork",
    "Jacobian",
    "JacobianModel",
    "LinearSolver",
    "LinearizedPrediction",
    "MeanState",
    "NearestSample",
    "NewtonOptions",
    "NoiseCovariance",
    "ObservableMisfit",
    "PDEJacobian",
    "ParameterToObservable",
    "SampleRegression",
    "SolveReport",
    "check_fingerprint",
    "compare_guesses",
    "cost_rates",
    "decrease_left",
    "derivative_errors",
    "fingerprint",
    "observable_rates",
    "owned_values",
    "prior_fingerprint",
    "sample_communicator",
    "serialize_compilation",
    "set_owned_values",
    "stopped_by_rounding",
]

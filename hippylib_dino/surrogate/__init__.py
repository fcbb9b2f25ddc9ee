"""The trained DINO as `hp.PDEProblem` and `hp.Model`, and the Laplace posterior."""

from hippylib_dino.surrogate.expansion import taylor_expansion
from hippylib_dino.surrogate.model import SurrogateModel
from hippylib_dino.surrogate.posterior import laplace
from hippylib_dino.surrogate.problem import SurrogateJacobian, SurrogateProblem

__all__ = ["SurrogateJacobian", "SurrogateModel", "SurrogateProblem", "laplace", "taylor_expansion"]

"""The trained DINO as `hp.PDEProblem` and `hp.Model`, the Laplace posterior, and the PDE as judge of both."""

from hippylib_dino.surrogate.certification import Certificate, LaplaceCertificate, certify, certify_laplace
from hippylib_dino.surrogate.enrichment import Enrichment, enrich
from hippylib_dino.surrogate.expansion import taylor_expansion
from hippylib_dino.surrogate.metric import latent_posterior
from hippylib_dino.surrogate.model import SurrogateModel
from hippylib_dino.surrogate.posterior import laplace
from hippylib_dino.surrogate.problem import SurrogateJacobian, SurrogateProblem
from hippylib_dino.surrogate.refinement import Refinement, refine

__all__ = [
    "Certificate",
    "Enrichment",
    "LaplaceCertificate",
    "Refinement",
    "SurrogateJacobian",
    "SurrogateModel",
    "SurrogateProblem",
    "certify",
    "certify_laplace",
    "enrich",
    "laplace",
    "latent_posterior",
    "refine",
    "taylor_expansion",
]

"""Exact sampling of the PDE's posterior: kernels for `hp.MCMC`, chains, diagnostics."""

from hippylib_dino.mcmc.chains import Chains, run_chains
from hippylib_dino.mcmc.diagnostics import Efficiency, efficiency
from hippylib_dino.mcmc.kernels import Counts, DelayedAcceptance, LatentKernel, PDEKernel
from hippylib_dino.mcmc.potentials import LatentCoordinates
from hippylib_dino.mcmc.proposals import MALA, PCN, Geometric, Laplace, Proposal

__all__ = [
    "MALA",
    "PCN",
    "Chains",
    "Counts",
    "DelayedAcceptance",
    "Efficiency",
    "Geometric",
    "Laplace",
    "LatentCoordinates",
    "LatentKernel",
    "PDEKernel",
    "Proposal",
    "efficiency",
    "run_chains",
]

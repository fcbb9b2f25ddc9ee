"""Bayesian inference in latent coordinates, for many data sets at once; needs neither dolfin nor Keras."""

from hippylib_dino.inference.reduced import LatentPosterior, ReducedInference

__all__ = ["LatentPosterior", "ReducedInference"]

"""All errors and warnings of the package.  Input errors are also `ValueError`s."""

from __future__ import annotations


class DinoError(Exception):
    """Base of every error that hippylib_dino raises on purpose."""


class InputError(DinoError, ValueError):
    """An argument is not what the function needs; the message says which, why and how to mend it."""


class MisfitError(InputError):
    """The misfit does not tell what is needed: an observation operator, a positive noise covariance."""


class RankError(InputError):
    """A rank is larger than the data can give."""


class VectorError(InputError):
    """A vector has the wrong size or lives on another communicator."""


class DatasetError(InputError):
    """A dataset directory is missing, damaged, of a newer format, or belongs to another problem."""


class ModelFileError(InputError):
    """A saved DINO is truncated, altered or of a newer format."""


class FingerprintError(InputError):
    """A dataset or DINO was made for another mesh, space, prior or observation operator."""


class AgreementError(InputError):
    """The ranks of a run were given different problems or arguments, whose samples would be mixed."""


class SolveError(DinoError, RuntimeError):
    """A PDE solve failed: it did not converge, or its result is not finite."""


class GenerationError(DinoError, RuntimeError):
    """Data generation was stopped: too many failed solves, or a rank raised."""


class DerivativeWarning(UserWarning):
    """The Jacobian of a model is not quite the derivative of its observable; the message says by how much, and why."""


class TrainingWarning(UserWarning):
    """Some of the data that a network is trained on say nothing; the message names them."""


class ChainWarning(UserWarning):
    """Some chains never moved, or stood at one point for long; the message names them."""


class TrainingError(DinoError, RuntimeError):
    """Training diverged: no epoch had a finite validation loss."""


class LibraryError(DinoError, ImportError):
    """A library is missing, or cannot work beside dolfin; the message says which to install or to replace."""

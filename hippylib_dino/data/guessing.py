"""Where the forward solves of a run start: chosen by counted work on some of the basis samples, then kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import dolfin as dl
import hippylib as hp
import numpy as np
import zarr

from hippylib_dino.data.layout import DONE, SCRATCH
from hippylib_dino.data.projection import Projector
from hippylib_dino.errors import InputError
from hippylib_dino.modeling.initial_guess import (
    LinearizedPrediction,
    MeanState,
    NearestSample,
    SampleRegression,
    compare_guesses,
)
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.spaces import DofOrder, owned_values, set_owned_values

Guess = Callable[[dl.GenericVector], dl.GenericVector]
GUESSES = ("mean", "linearized", "nearest", "regression")
MOST_SAMPLES = 136  # whose states are in memory
MOST_LATENT = 20  # coordinates in which samples are compared
N_MEASURED = 8  # basis samples that the candidates are compared on, and not built from


def check_initial_guess(initial_guess: str | Guess) -> None:
    """Raise `InputError` unless it is one of the names or a callable."""
    if not (callable(initial_guess) or initial_guess in ("auto", *GUESSES)):
        raise InputError(
            f'initial_guess: expected "auto", one of {GUESSES}, or a callable guess(m) -> u, got {initial_guess!r}.'
        )


class Guesses:
    """The initial guesses that the first pass of a run makes possible.

    Parameters
    ----------
    model : JacobianModel
        Nonlinear and steady.
    projector : Projector
        Whose latent coordinates tell which samples are near.
    root : zarr.Group
        The dataset.
    """

    def __init__(self, model: JacobianModel, projector: Projector, root: zarr.Group):
        self._model, self._projector = model, projector
        self._parameters, self._states = DofOrder(model.prior.Vh), DofOrder(model.problem.Vh[hp.STATE])
        self._samples: list[int] = []
        if SCRATCH in root:
            self._scratch = root[SCRATCH]
            self._kept = self._scratch["observable" if model.whole_state else "state"]
            done = np.flatnonzero(self._scratch["status"][:] == DONE)[:MOST_SAMPLES]
            self._samples = [int(i) for i in done if self._has_state(int(i))]

    def _has_state(self, index: int) -> bool:
        """Samples that were taken from another dataset have none."""
        return bool(np.isfinite(self._kept[index]).all())

    def make(self, name: str, samples: list[int] | None = None) -> Guess:
        """The guess of a name, from some of the basis samples or all; linearised where too few are kept."""
        samples = self._samples if samples is None else samples
        if name == "mean":
            return MeanState(self._model)
        if name == "linearized" or len(samples) < 2:
            return LinearizedPrediction(self._model)
        parameters = [self._parameter(i) for i in samples]
        states = np.array([self._states.from_array(self._kept[i]) for i in samples])
        # interpolation with a linear tail needs more samples than coordinates, and distances that mean something:
        # coordinates weigh in as much as they move the observable
        weights = self._projector.importance[: min(MOST_LATENT, max(1, len(samples) // 3))]

        def encode(m: dl.GenericVector) -> np.ndarray:
            return weights * self._projector.encode(owned_values(m))[: len(weights)]

        if name == "nearest":
            latents = np.array([encode(m) for m in parameters])
            return NearestSample(encode, latents, states, self._model.generate_vector(hp.STATE))
        baseline = LinearizedPrediction(self._model)
        return SampleRegression(baseline, encode, parameters, states, n_modes=min(50, len(samples)))

    def choose(self) -> dict:
        """The candidates' counted work and the best of them: {"chosen": name, "work": {name: counts}}.

        Counted, not timed, so that a run that is repeated chooses the same.
        """
        built, measured = self._samples[:-N_MEASURED], self._samples[-N_MEASURED:]
        candidates = {name: self.make(name, built) for name in GUESSES if name in GUESSES[:2] or len(built) >= 2}
        parameters = [self._parameter(i) for i in measured]
        best, table = compare_guesses(self._model, candidates, parameters)
        return {"chosen": best, "work": {name: asdict(work) for name, work in table.items()}}

    def _parameter(self, index: int) -> dl.GenericVector:
        m = self._model.generate_vector(hp.PARAMETER)
        set_owned_values(m, self._parameters.from_array(self._scratch["m"][index]))
        return m

    @property
    def can_choose(self) -> bool:
        """Whether samples were kept to compare on, and the problem reports what its solves do."""
        return len(self._samples) > 0 and getattr(self._model.problem, "report", None) is not None

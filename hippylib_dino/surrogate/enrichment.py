"""PDE samples where the surrogate needs them for the data at hand, until the PDE trusts its MAP point."""

from __future__ import annotations

import functools
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import hippylib as hp
import numpy as np
from hippylib.utils.warnings import ModelConvergenceError
from rich.console import Console
from rich.table import Table

from hippylib_dino.data.agreement import check_model, check_problem, describe_posterior, of_arguments, of_weights
from hippylib_dino.data.dataset import Dataset
from hippylib_dino.data.generation import append
from hippylib_dino.data.layout import FAILED
from hippylib_dino.data.streams import draw_posterior
from hippylib_dino.data.together import Ranks
from hippylib_dino.errors import InputError
from hippylib_dino.modeling.fingerprint import check_fingerprint, fingerprint
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.observation import observed_data
from hippylib_dino.modeling.spaces import DofOrder, owned_values
from hippylib_dino.network.architecture import TrainableArchitecture
from hippylib_dino.network.dino import DINO, check_bases
from hippylib_dino.network.formulations import Formulation
from hippylib_dino.random_streams import Purpose, seed_of
from hippylib_dino.surrogate.certification import Certificate, certify
from hippylib_dino.surrogate.metric import check_kinds, latent_posterior, parameter_to_judge
from hippylib_dino.surrogate.model import SurrogateModel

CHECK, VERDICT = 1, 1  # PDE solves that a batch takes besides its samples: the dataset's check, the next certificate
FEWEST = 2  # PDE solves of the first certificate, with that of an initial guess


@dataclass(frozen=True)
class Round:
    """A surrogate, the PDE's verdict on it, and what was added then.

    Attributes
    ----------
    certificate : Certificate
    outside : float
        The part of ``certificate.relative_distance`` that lies outside the input basis, where no sample removes it.
    n_train : int
        Samples that the surrogate was trained on.
    n_solves : int
        Forward PDE solves up to this verdict.
    n_added, n_failed : int
        Samples that were added after it, and how many of them the PDE could not solve.
    """

    certificate: Certificate
    outside: float
    n_train: int
    n_solves: int
    n_added: int = 0
    n_failed: int = 0


@dataclass(frozen=True, eq=False)
class Enrichment:
    """What `enrich` reached; ``print`` it for the history.

    Attributes
    ----------
    surrogate : SurrogateModel
        The one that is trusted, or else the one of the least estimated distance.
    solution : [u, m, p]
        Its MAP point.
    certificate : Certificate
        The PDE's verdict there.
    dataset : Dataset
        With the samples that were added.
    rounds : list of Round
        The first one is of the surrogate that was given.
    n_solves : int
        Forward PDE solves in all: of samples, failed ones included, of verdicts, and of a check with each batch.
    reason : str
        Why it ended.
    """

    surrogate: SurrogateModel
    solution: list
    certificate: Certificate
    dataset: Dataset
    rounds: list[Round]
    n_solves: int
    reason: str

    @property
    def trusted(self) -> bool:
        """Whether the PDE trusts the solution."""
        return self.certificate.trusted

    def __str__(self) -> str:
        table = Table(
            title="Enrichment; distances in posterior deviations per informed direction", title_justify="left"
        )
        headings = (
            "round",
            "trained on",
            "PDE solves",
            "distance",
            "outside the basis",
            "observable",
            "added",
            "failed",
        )
        for heading in headings:
            table.add_column(heading, justify="right")
        for number, entry in enumerate(self.rounds):
            found = entry.certificate
            distances = (f"{d:.3g}" for d in (found.relative_distance, entry.outside, found.observable_error))
            counts = (str(n) for n in (entry.n_added, entry.n_failed))
            table.add_row(str(number), str(entry.n_train), str(entry.n_solves), *distances, *counts)
        text = io.StringIO()
        Console(file=text, width=100).print(table)
        verdict = "trusted" if self.trusted else "NOT trusted"
        return f"{text.getvalue().rstrip()}\n{verdict} after {self.n_solves} PDE solves: {self.reason}"


def enrich(
    surrogate: SurrogateModel,
    model: JacobianModel,
    dataset: Dataset,
    *,
    max_solves: int = 100,
    n_per_round: int = 16,
    threshold: float = 0.3,
    formulation: str | Formulation = "h1",
    seed: int = 0,
    log: str | Path | None = None,
    progress: bool = True,
    **keywords: Any,
) -> Enrichment:
    """Add PDE samples where the posterior is, and train on, until the PDE trusts the MAP point or the budget is met.

    Each round finds the surrogate's MAP point and has `certify` judge it.  Where that says no, the PDE and its Jacobian
    are asked there and at draws from the surrogate's Laplace posterior around it; these are appended to the dataset on
    disk as training samples (`hd.data.append`), and the network is trained on from its weights.  Under `mpirun` the
    groups of ranks share the samples, and the first rank trains.

    Parameters
    ----------
    surrogate : SurrogateModel
        With a network that Keras trained.
    model : JacobianModel
        The PDE's, with the same misfit and prior.
    dataset : Dataset
        In whose bases the network was trained; it grows on disk.
    max_solves : int
        Budget of forward PDE solves: of samples, of verdicts, and of a check with each batch.  Each sample takes its
        Jacobian besides, as in `hd.generate`; and where this process has not checked the model's Jacobian yet, some
        solves for that come on top, so that a call that is continued adds what it would have.
    n_per_round : int
        Samples to add at a time.
    threshold : float
        Of `certify`.
    formulation, keywords
        Of `hd.train`.
    seed : int
        Of draws and training.
    log : path, optional
        See `hd.train`; a folder in it for each round.
    progress : bool

    Returns
    -------
    Enrichment
        Check ``trusted``.

    Raises
    ------
    InputError, FingerprintError
        If the arguments do not fit each other; before any PDE solve.
    DatasetError
        If the dataset was generated with another noise covariance, or another run writes to it.
    TrainingError
        If a training diverges.

    Notes
    -----
    A call that was interrupted is finished by the same call: the samples that it added are found by their origin and
    not solved again, but count.  The same call with a larger budget goes on where the smaller one ended.

    Validation and test samples stay draws of the prior, and held-out errors speak of the prior as before.  They cannot
    see what the added samples teach, so the weights of the last epoch are kept (``keep="last"``).

    Distance is left where the network is exact, if the data inform directions that the input basis does not hold: the
    part (R⁻¹ - ΨΨᵀ) g of the displacement that `certify` estimates.  If that part alone was above the threshold in
    every round, and the rest no longer is, the enrichment ends; `refine` finds what is missing, and a wider basis has
    it.

    Examples
    --------
    ::

        result = hd.enrich(surrogate, model, dataset, max_solves=60)
        print(result)
        result.surrogate.dino.save("enriched.dino")
    """
    check_kinds(surrogate, model)
    ranks = Ranks(model.prior.Vh.mesh().mpi_comm(), "the same call continues it.")
    check_model(ranks, model)
    ranks.together(lambda: _check(surrogate, model, dataset, max_solves, n_per_round, keywords))
    batches = _Batches(surrogate, model, ranks, seed, n_per_round, progress)
    numbers = of_arguments(
        max_solves=max_solves, n_per_round=n_per_round, threshold=threshold, seed=seed, dataset=str(dataset.path)
    )
    weights = {"weights of the surrogate": of_weights(surrogate.dino.weights)}
    check_problem(ranks, lambda: {**describe_posterior(model), **weights, **numbers})
    judged = best = _judge(surrogate, model, threshold)
    rounds: list[Round] = []
    spent = ranks.world.bcast(judged.certificate.n_forward)
    while True:
        room = min(n_per_round, max_solves - spent - CHECK - VERDICT)
        number, before = len(rounds) + 1, spent
        least_outside = np.nanmin([judged.outside, *(entry.outside for entry in rounds), np.inf])
        # every group judges, and rounding may part them where hosts differ: what is done follows the first one
        reason = ranks.world.bcast(_end(judged, float(least_outside), room))
        added = np.empty(0, dtype=int)
        if not reason:
            dataset, added = batches.add(dataset, number, judged, room)
            spent += len(added) + CHECK
        n_failed = int((dataset.status[added] == FAILED).sum())
        rounds.append(
            Round(judged.certificate, judged.outside, judged.n_train, before, n_added=len(added), n_failed=n_failed)
        )
        if not reason and n_failed == len(added):
            reason = "the PDE could be solved at none of the points that were to be added"
        if reason:
            break
        folder = None if log is None else Path(log) / f"round-{number}"
        settings = {"seed": seed, "log": folder, "progress": progress, "keep": "last", **keywords}
        training = functools.partial(_train_on, dataset, formulation, judged.surrogate.dino, settings)
        judged = _judge(_surrogate(ranks.on_first(training), model), model, threshold)
        spent += ranks.world.bcast(judged.certificate.n_forward)
        best = judged if ranks.world.bcast(_badness(judged) < _badness(best)) else best
    return Enrichment(best.surrogate, best.solution, best.certificate, dataset, rounds, spent, reason)


class _Judged(NamedTuple):
    """A surrogate, its MAP point and the PDE's verdict there; its Laplace posterior, None where it has none."""

    surrogate: SurrogateModel
    solution: list
    certificate: Certificate
    posterior: hp.GaussianLRPosterior | None
    outside: float

    @property
    def n_train(self) -> int:
        return int(self.surrogate.dino.training.get("n_train", 0))


def _judge(surrogate: SurrogateModel, model: JacobianModel, threshold: float) -> _Judged:
    solution = _map_point(surrogate)
    certificate = certify(surrogate, model, solution, threshold=threshold)
    try:
        posterior = latent_posterior(surrogate, solution[hp.PARAMETER])
    except ModelConvergenceError:  # the network's answer is not finite there
        posterior = None
    outside = certificate.outside_basis / certificate.informed_directions**0.5
    return _Judged(surrogate, solution, certificate, posterior, outside)


def _map_point(surrogate: SurrogateModel) -> list:
    """By hIPPYlib's Newton-CG from the prior mean, or that where the network's answer is not finite."""
    parameters = hp.ReducedSpaceNewtonCG_ParameterList()
    for key, value in {"rel_tolerance": 1e-6, "max_iter": 100, "print_level": -1}.items():
        parameters[key] = value
    mean = surrogate.prior.mean
    try:
        return hp.ReducedSpaceNewtonCG(surrogate, parameters).solve([None, mean.copy(), None])
    except ModelConvergenceError:
        return [None, mean.copy(), None]


def _badness(judged: _Judged) -> tuple[bool, float]:
    """For the best of several: a trusted one first, then by distance, NaN last."""
    distance = judged.certificate.relative_distance
    return not judged.certificate.trusted, np.inf if np.isnan(distance) else distance


def _end(judged: _Judged, least_outside: float, room: int) -> str:
    """Why nothing more is to be added, or an empty string."""
    found = judged.certificate
    if found.trusted:
        return f"{found.relative_distance:.3g} posterior deviations per informed direction <= {found.threshold:g}"
    if judged.posterior is None:
        return f"there is no posterior to draw from; {found.reason}"
    inside = np.sqrt(max(found.relative_distance**2 - judged.outside**2, 0.0))
    if inside <= found.threshold < least_outside < np.inf:
        return (
            f"{judged.outside:.3g} of {found.relative_distance:.3g} deviations per direction lie outside the input "
            "basis, where samples are of no help: hd.refine from here, or generate with a larger input_rank"
        )
    return "the budget of PDE solves is met" if room < 1 else ""


def _surrogate(dino: DINO, model: JacobianModel) -> SurrogateModel:
    state_space = model.problem.Vh[hp.STATE] if model.whole_state else None
    return SurrogateModel(dino, model.prior, model.misfit, state_space=state_space)


def _train_on(dataset: Dataset, formulation: str | Formulation, start: DINO, settings: dict[str, Any]) -> DINO:
    from hippylib_dino.network.optimizers import fresh  # Keras, which certify and refine do without
    from hippylib_dino.network.training import train

    if "optimizer" in settings:
        settings["optimizer"] = fresh(settings["optimizer"])
    return train(dataset, formulation, start=start, **settings)


class _Batches:
    """The samples that the rounds of one call add, marked as its own.

    Two calls are the same to a dataset if network, data, seed and size of a batch are.
    """

    def __init__(
        self,
        surrogate: SurrogateModel,
        model: JacobianModel,
        ranks: Ranks,
        seed: int,
        n_per_round: int,
        progress: bool,
    ):
        self._ranks = ranks
        self._model, self._progress, self._order = model, progress, DofOrder(model.prior.Vh)
        arrays = (observed_data(model.misfit), *surrogate.dino.weights)
        content = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)
        digest = hashlib.sha256(content + f"{seed}, {n_per_round}".encode()).hexdigest()[:12]
        self._name, self._seed = f"enrichment {digest}", (seed, int(digest, 16))

    def add(self, dataset: Dataset, number: int, judged: _Judged, n: int) -> tuple[Dataset, np.ndarray]:
        """Append `n` samples of round `number`, or what an interrupted call planned; the dataset and their numbers."""
        label = f"{self._name}, round {number}: "
        if not _marked(dataset, label):
            parameters, origins = self._choose(number, judged, n)
            origins = [label + origin for origin in origins]
        else:
            parameters = np.array([dataset.given_parameter(i) for i in _marked(dataset, label)])
            origins = [dataset.given[i] for i in _marked(dataset, label)]
        dataset = append(self._model, dataset, parameters, origins, progress=self._progress)
        return dataset, np.array(_marked(dataset, label), dtype=int)

    def _choose(self, number: int, judged: _Judged, n: int) -> tuple[np.ndarray, list[str]]:
        """Parameters (n, dM): the MAP point, unless the PDE failed there just now, and draws around it."""
        solved = bool(np.isfinite(judged.certificate.cost.total))
        points = [judged.solution[hp.PARAMETER]] if solved else []
        draws = n - len(points)
        seed = seed_of(Purpose.ENRICHMENT, self._seed, number)
        points += [draw_posterior(judged.posterior, seed, i) for i in range(draws)]
        parameters = np.array([self._order.to_array(owned_values(m)) for m in points])
        # the same on all groups to the last bit
        return self._ranks.world.bcast(parameters), ["MAP point"] * solved + ["Laplace posterior"] * draws


def _marked(dataset: Dataset, label: str) -> list[int]:
    return [number for number, origin in dataset.given.items() if origin.startswith(label)]


def _check(
    surrogate: SurrogateModel, model: JacobianModel, dataset: Dataset, max_solves: int, n_per_round: int, keywords: dict
) -> None:
    """Raise `InputError` or `FingerprintError` for arguments that do not fit each other."""
    if max_solves < FEWEST:
        raise InputError(f"max_solves: expected at least {FEWEST}, what the first verdict may take, got {max_solves}.")
    if n_per_round < 1:
        raise InputError(f"n_per_round: expected at least 1, got {n_per_round}.")
    own = sorted({"n_train", "start"} & set(keywords))
    if own:
        raise InputError(
            f"{own[0]}: is not to be given, since the training goes on from the surrogate on all training samples. "
            "Train with it first, then enrich."
        )
    parameter_to_judge(surrogate, model, model.prior.mean)
    if model.control_distribution is not None:
        raise InputError("model: draws controls, which parameters alone do not fix; pass one without control=.")
    if not isinstance(dataset, Dataset):
        raise InputError(
            f"dataset: expected the hd.Dataset that the network was trained on, got {type(dataset).__name__}."
        )
    if not isinstance(surrogate.dino.architecture, TrainableArchitecture):
        raise InputError(
            "surrogate: expected a DINO that Keras trained, to train it on, got one of "
            f"{type(surrogate.dino.architecture).__name__}."
        )
    check_bases(surrogate.dino, dataset)
    check_fingerprint(dataset.fingerprint, fingerprint(model), f"dataset: {dataset.path}")

"""Whether all ranks of a run hold the same problem, asked before they share its samples.

Each rank builds the problem by itself.  What it draws for that from hIPPYlib's generator, which is seeded by rank, or
from an unseeded one, it draws for itself alone; the samples of several problems would then be mixed without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import hippylib as hp
import numpy as np

from hippylib_dino.data.together import Ranks
from hippylib_dino.errors import AgreementError
from hippylib_dino.modeling.fingerprint import TOLERANCE, fingerprint, prior_fingerprint
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.observation import members_of, observed_data

LARGE, N_SUMS = 256, 8  # entries; of larger arrays so many sums are compared
_REMEDY = (
    "Every rank builds the problem by itself, and hp.parRandom, which is seeded by rank, or an unseeded generator "
    "gives each of them other numbers. Draw with a seed of your own, by np.random.default_rng(seed) or, on a mesh's "
    "communicator, hp.Random(comm.rank, comm.size, seed=seed); or take what the first rank has: "
    "value = MPI.COMM_WORLD.bcast(value)."
)


@dataclass(frozen=True)
class Probe:
    """Numbers that are the same on all ranks up to rounding, which differs between hosts.

    Attributes
    ----------
    values : ndarray
    scale : float
        Numbers are compared to `tolerance` times the largest of them, or times this if it is more: what counts as zero.
    tolerance : float
    """

    values: np.ndarray
    scale: float = 0.0
    tolerance: float = TOLERANCE

    @classmethod
    def of(cls, array, scale: float = 0.0, tolerance: float = TOLERANCE) -> Probe:
        """An array, or if it is large its size and weighted sums."""
        values = np.asarray(array, dtype=float)
        size = values.size
        while values.size > LARGE:
            rows = values if values.ndim == 2 and values.shape[1] > N_SUMS else values.reshape(1, -1)
            values = rows @ np.cos(np.outer(np.arange(rows.shape[1]), np.linspace(0.0, 3.0, N_SUMS)) + 0.3)
        return cls(values.ravel() if values.size == size else np.append(values, size), scale, tolerance)

    def differs(self, other: object) -> bool:
        if not isinstance(other, Probe) or self.values.shape != other.values.shape:
            return True
        largest = max(self.scale, *(np.abs(p.values[np.isfinite(p.values)]).max(initial=0.0) for p in (self, other)))
        return not np.allclose(self.values, other.values, rtol=0, atol=self.tolerance * largest, equal_nan=True)

    def __str__(self) -> str:
        shown = ", ".join(f"{value:.7g}" for value in self.values[:3])
        return shown if self.values.size == 1 else f"[{shown}{', ...' if self.values.size > 3 else ''}]"


Found = Mapping[str, Probe | str]


def check_agreement(ranks: Ranks, found: Found, what: str = "arguments") -> None:
    """Compare what is to be the same on every rank; collective.

    Parameters
    ----------
    ranks : Ranks
    found : mapping
        Names and values.
    what : str
        What they belong to, for the message.

    Raises
    ------
    AgreementError
        On every rank, naming what differs between which ranks.
    """
    every = ranks.world.gather(found)
    message = ranks.world.bcast(None if every is None else _disagreement(every))
    if message:
        raise AgreementError(f"{what}: the ranks of this run do not hold the same. {message} {_REMEDY}")


def check_problem(ranks: Ranks, find: Callable[[], Found]) -> None:
    """Compare the problems of the ranks; collective.

    Parameters
    ----------
    ranks : Ranks
    find : callable
        Gives names and values, as `describe` does; not called where there is one rank, for it solves the PDE.

    Raises
    ------
    AgreementError
        On every rank, naming what differs between which ranks.
    """
    if ranks.world.size == 1:
        return
    found: dict[str, Probe | str] = {}
    ranks.together(lambda: found.update(find()))
    check_agreement(ranks, found, "model")


def check_model(ranks: Ranks, model: hp.Model) -> None:
    """Compare the models of the ranks before arguments are held against them; collective.

    An error that one rank raises by itself, as its own model does not fit what all were given, tells nothing of the
    others and leaves them waiting.

    Raises
    ------
    AgreementError
        On every rank, naming what differs between which ranks.
    """
    check_problem(ranks, lambda: describe(model))


def describe(model: hp.Model) -> dict[str, Probe | str]:
    """A problem: its fingerprint and noise, and the observable at the prior mean, which tells another PDE apart.

    Raises
    ------
    SolveError
        If the PDE cannot be solved at the prior mean.
    """
    noise = np.asarray(model.data_space.value)
    q = model.evalObservable(model.prior.mean)
    deviation = float(np.sqrt((np.diag(noise) if noise.ndim == 2 else noise).min()))
    return {
        **of_fingerprint(fingerprint(model)),
        "noise covariance": Probe.of(noise),
        "observable at the prior mean": Probe.of(q[:: max(1, len(q) // 64)], scale=deviation),
    }


def describe_posterior(model: hp.Model) -> dict[str, Probe | str]:
    """Any hIPPYlib model with its data: the prior, and the misfit at the prior mean.

    Raises
    ------
    RuntimeError
        As the model's forward solve does at the prior mean.
    """
    found = of_fingerprint(prior_fingerprint(model.prior))
    if isinstance(model, JacobianModel):
        found = describe(model)
    if all(hasattr(member, "d") for member in members_of(model.misfit)):
        found["data of the misfit"] = Probe.of(observed_data(model.misfit))
    u, m = model.generate_vector(hp.STATE), model.prior.mean
    model.solveFwd(u, [u, m, None])
    found["misfit at the prior mean"] = Probe.of(model.cost([u, m, None])[2], scale=1.0, tolerance=1e-3)
    return found


def of_fingerprint(marks: Mapping[str, Mapping[str, object]]) -> dict[str, Probe | str]:
    """The parts of a fingerprint."""
    return {
        f"{part}, {name}": value if isinstance(value, str) else Probe.of(value)
        for part, fields in marks.items()
        for name, value in fields.items()
    }


def of_arguments(**arguments: object) -> dict[str, str]:
    """Arguments that are compared to the letter."""
    return {name: repr(value) for name, value in arguments.items()}


def of_weights(arrays: Iterable[np.ndarray]) -> Probe:
    """The weights of a network."""
    return Probe.of(np.concatenate([np.ravel(array) for array in arrays]))


def _disagreement(every: list[dict[str, Probe | str]]) -> str:
    """What differs between which ranks, the first three of all; empty if nothing does."""
    names = list(dict.fromkeys(name for found in every for name in found))
    sentences = []
    for name in names:
        held: list[tuple[Probe | str | None, list[int]]] = []
        for rank, found in enumerate(every):
            value = found.get(name)
            same = next((members for other, members in held if not _differs(other, value)), None)
            if same is None:
                held.append((value, [rank]))
            else:
                same.append(rank)
        if len(held) > 1:
            parts = [f"{'none' if value is None else value} on {_ranks(members)}" for value, members in held[:4]]
            sentences.append(f"{name}: {'; '.join(parts)}{'; and others' if len(held) > 4 else ''}.")
    more = f" And {len(sentences) - 3} more." if len(sentences) > 3 else ""
    return " ".join(sentences[:3]) + more


def _differs(a: Probe | str | None, b: Probe | str | None) -> bool:
    return a.differs(b) if isinstance(a, Probe) else a != b


def _ranks(members: list[int]) -> str:
    shown = ", ".join(map(str, members[:4]))
    return f"rank {shown}" if len(members) == 1 else f"ranks {shown}{', ...' if len(members) > 4 else ''}"

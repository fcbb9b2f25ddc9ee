"""Ranks by hand or by a share of a basis' energy.  NumPy only, as `Basis` is."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real

import numpy as np

from hippylib_dino.errors import InputError, RankError
from hippylib_dino.reduction.basis import Basis
from hippylib_dino.reduction.eigen import NEGLIGIBLE

FIRST_RANK = 32  # of the search for a rank by its share, which doubles it
Rank = int | float
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # eigenvalues, decoder, encoder


def checked_rank(name: str, asked: Rank) -> Rank:
    """A rank as int, or a share of the energy as float.

    Raises
    ------
    InputError
        If `asked` is neither an int of at least 1 nor a float between 0 and 1; `name` is the argument.
    """
    if isinstance(asked, Integral) and not isinstance(asked, bool) and asked >= 1:
        return int(asked)
    if isinstance(asked, Real) and not isinstance(asked, Integral) and 0.0 < asked < 1.0:
        return float(asked)
    raise InputError(
        f"{name}: expected a rank, an int of at least 1, or a share of the basis' energy, a float strictly between 0 "
        f"and 1, got {asked!r}. Pass for instance 50 or 0.9999; for all of the energy pass the largest rank."
    )


def parse_rank(name: str, text: str) -> Rank:
    """The rank or share that a command line says, "100" or "0.9999".

    Raises
    ------
    InputError
        If it is neither.
    """
    for kind in (int, float):
        try:
            return checked_rank(name, kind(text))
        except InputError:
            raise
        except ValueError:
            continue
    return checked_rank(name, text)  # type: ignore[arg-type]  # which refuses it


def rank_of_share(eigenvalues: np.ndarray, total: float, share: float) -> int | None:
    """The smallest rank whose eigenvalues (n,) sum up to `share` of `total`; None if all of them do not."""
    reached = np.flatnonzero(np.cumsum(eigenvalues) >= share * total)
    return int(reached[0]) + 1 if len(reached) else None


def pairs_of_share(
    share: float,
    limit: int,
    pairs: Callable[[int], Pairs],
    total: Callable[[Pairs], float],
    *,
    name: str,
    source: str,
) -> tuple[int, Pairs, float]:
    """Eigenpairs of a rank that is doubled until it holds a share of the energy.

    Parameters
    ----------
    share : float
    limit : int
        Largest rank that there is.
    pairs : callable
        Leading eigenpairs of a rank, perhaps some more than that, which are less accurate.
    total : callable
        Sum of the whole spectrum, of which these pairs are the leading ones.
    name, source : str
        Of the argument, and of what limits it, for errors.

    Returns
    -------
    smallest rank that holds the share, pairs, total

    Raises
    ------
    RankError
        If all pairs that there are do not hold it.
    """
    size = min(FIRST_RANK, limit)
    while True:
        found = pairs(size)
        energy = total(found)
        values = found[0][:size]
        values = values[values > NEGLIGIBLE * values[0]]
        rank = rank_of_share(values, energy, share)
        if rank is not None:
            return rank, found, energy
        if len(values) < size or size == limit:
            raise RankError(
                f"{name}: expected a share of the energy that the {len(values)} vectors which {source} can give "
                f"reach, {values.sum() / energy:.8g}, got {share}. Lower {name}, or pass a rank by hand."
            )
        size = min(2 * size, limit)


def rank_within(basis: Basis, asked: Rank, *, name: str, where: str) -> int:
    """The rank of a truncated basis, by hand or the smallest that holds a share of the energy.

    Raises
    ------
    InputError
        If `asked` is neither, or the total energy is not known.
    RankError
        If `basis` is not of that rank, does not hold that share, or is an identity, whose vectors are not ranked.
    """
    asked = checked_rank(name, asked)
    wider = "For wider bases generate with reuse=this dataset, if it was stored with store_full=True."
    if basis.kind == "identity" and asked != basis.rank:
        raise RankError(
            f"{name}: expected {basis.rank}, since the identity keeps all outputs and does not rank them, got {asked}. "
            f'Pass {basis.rank}, or generate with output_basis="derivative" or "pod".'
        )
    if isinstance(asked, float):
        if basis.total_energy is None:
            raise InputError(
                f"{name}: expected a rank 1 .. {basis.rank}, got the share {asked}, but {where} was made by a version "
                "that did not store the total energy of this basis. Pass an int, or generate again."
            )
        rank = rank_of_share(basis.eigenvalues[: basis.rank], basis.total_energy, asked)
        if rank is None:
            held = basis.energy()[basis.rank - 1]
            raise RankError(
                f"{name}: expected a share of the energy of at most {held:.8g}, which the {basis.rank} vectors of "
                f"{where} hold, got {asked}. {wider}"
            )
        return rank
    if asked > basis.rank:
        raise RankError(f"{name}: expected 1 .. {basis.rank}, which {where} holds, got {asked}. {wider}")
    return asked

"""Fingerprints compared, which `modeling.fingerprint` makes; NumPy only, as training needs no dolfin."""

from __future__ import annotations

import numpy as np

from hippylib_dino.errors import FingerprintError

TOLERANCE = 1e-6
_REMEDY = "Rebuild the problem as it was then, or generate and train for this one."


def check_fingerprint(stored: dict, current: dict, what: str) -> None:
    """Compare the parts of `current` with `stored`.

    Parameters
    ----------
    stored, current : dict
        Fingerprints; `current` may lack parts (a surrogate needs no state space).
    what : str
        What the stored one belongs to, for the message.

    Raises
    ------
    FingerprintError
        Naming the part that differs, with both values.
    """
    for part, fields in current.items():
        for name, here in fields.items():
            there = stored.get(part, {}).get(name)
            if name == "columns" and there is None:
                continue  # made on a partitioned mesh, whose numbering says nothing here
            if not _equal(there, here):
                raise FingerprintError(
                    f"{what} was made for another {part}: {name} was {_short(there)}, is {_short(here)}. {_REMEDY}"
                )


def _equal(there, here) -> bool:
    if isinstance(here, str) or there is None:
        return there == here
    there, here = np.asarray(there), np.asarray(here)
    return there.shape == here.shape and np.allclose(there, here, rtol=TOLERANCE, atol=TOLERANCE * np.abs(here).max())


def _short(value) -> str:
    return (
        value if isinstance(value, str) else np.array2string(np.asarray(value, dtype=object), threshold=4, edgeitems=2)
    )

"""Numbers and truth values that a user gives, Python's or NumPy's."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

from hippylib_dino.errors import InputError


def whole_number(name: str, value: Any, least: int) -> int:
    """`value` as an int.

    Raises
    ------
    InputError
        If it is no whole number, or smaller than `least`; `name` is the argument.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral):
        raise InputError(f"{name}: expected a whole number of at least {least}, got {value!r}.")
    if value < least:
        raise InputError(f"{name}: expected at least {least}, got {value}.")
    return int(value)


def truth_value(name: str, value: Any) -> bool:
    """`value` as a bool.

    Raises
    ------
    InputError
        If it is neither True nor False; `name` is the argument.
    """
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name}: expected True or False, got {value!r}.")
    return bool(value)

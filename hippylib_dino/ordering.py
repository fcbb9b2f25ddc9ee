"""Arrays that know the order of their degrees of freedom, so that two orders do not meet unseen.

dolfin numbers the degrees of freedom of a space by the partition of the mesh; stored bases and Jacobians have the
canonical order, sorted by coordinates (`modeling.DofOrder`).  Both have the same shape, and a product of a Jacobian in
one with a basis in the other is a number like any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hippylib_dino.errors import InputError

DOLFIN, CANONICAL = "dolfin", "canonical"


class OrderedArray(np.ndarray):
    """A NumPy array, one axis of which counts parameters in a known order.

    An operation of NumPy on two of different orders raises; anything else is as of a plain array, and what is computed
    is one.  Views, transposed or sliced, keep the order; a selection by an array of indices is in another, and plain.

    Attributes
    ----------
    dof_order : str or None
        "dolfin" or "canonical".

    Examples
    --------
    >>> import numpy as np
    >>> a, b = ordered(np.ones((2, 3)), "dolfin"), ordered(np.ones((3, 2)), "canonical")
    >>> type(a @ np.ones(3)).__name__
    'ndarray'
    >>> try:
    ...     a @ b
    ... except InputError as error:
    ...     print(str(error).split(",")[0])
    matmul: expected arrays in one order of degrees of freedom
    """

    dof_order: str | None

    def __array_finalize__(self, like: Any) -> None:
        self.dof_order = getattr(like, "dof_order", None)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
        into = keywords.pop("out", ())
        _check_orders(ufunc.__name__, (inputs, into))
        if not into:
            return getattr(ufunc, method)(*_plain(inputs), **keywords)
        getattr(ufunc, method)(*_plain(inputs), out=_plain(into), **keywords)
        return into[0] if len(into) == 1 else into

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        _check_orders(function.__name__, args)
        return function(*_plain(args), **{name: _plain(a) for name, a in kwargs.items()})

    def dot(self, b: Any, out: Any = None) -> Any:  # the method alone asks nobody
        return np.dot(self, b, out=out)

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if isinstance(found, OrderedArray) and not np.may_share_memory(np.asarray(found), np.asarray(self)):
            return np.asarray(found)
        return found


def ordered(array: np.ndarray, dof_order: str) -> OrderedArray:
    """`array`, not copied, with the order of its degrees of freedom."""
    out = np.asarray(array).view(OrderedArray)
    out.dof_order = dof_order
    return out


def _plain(a: Any) -> Any:
    if isinstance(a, (list, tuple)):
        return type(a)(_plain(one) for one in a) if type(a) in (list, tuple) else a
    return np.asarray(a) if isinstance(a, OrderedArray) else a


def _orders(a: Any) -> set[str]:
    if isinstance(a, (list, tuple)):
        return set().union(*map(_orders, a))
    return {a.dof_order} if isinstance(a, OrderedArray) and a.dof_order is not None else set()


def _check_orders(name: str, args: Any) -> None:
    found = _orders(args)
    if len(found) > 1:
        raise InputError(
            f"{name}: expected arrays in one order of degrees of freedom, got dolfin and canonical. Bases and stored "
            'Jacobians are in canonical order: take jacobian.to_dense(order="canonical"), or '
            "DofOrder(space).from_array(...) of the basis."
        )

"""The user's own module: found, built, and shown where it raises."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from hippylib_dino.errors import InputError, LibraryError

_PACKAGE = str(Path(__file__).resolve().parent.parent)
_INSTALLED = ("site-packages", "dist-packages")


def load_module(application: str, *functions: str) -> ModuleType:
    """The application's module, which has these functions.

    Raises
    ------
    InputError
        If there is no such module, or no such function in it.
    LibraryError
        If FEniCS or hIPPYlib is missing.
    Exception
        What the module itself raises.
    """
    if application.endswith(".py") or not all(part.isidentifier() for part in application.split(".")):
        hint = application.removesuffix(".py").strip("./").replace("/", ".")
        remedy = f"pass {hint!r}" if all(part.isidentifier() for part in hint.split(".")) else "see --help"
        raise InputError(
            f"APPLICATION: expected the name of a module as Python imports it, such as applications.confusion, got "
            f"{application!r}; {remedy}."
        )
    silence_fenics()
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does, for applications beside the user
    try:
        module = left_alone(lambda: importlib.import_module(application))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{application}.".startswith(f"{error.name}."):
            raise  # a module that his own needs
        raise InputError(
            f"APPLICATION: cannot import {application!r} ({error}); run from the folder that holds it."
        ) from error
    for name in functions:
        if not callable(getattr(module, name, None)):
            made = {"build": "build(comm, ...) -> JacobianModel", "quantity": "quantity(model) -> FormQuantity"}[name]
            is_not = "is no function" if hasattr(module, name) else "is missing"
            raise InputError(
                f"APPLICATION: module {application!r} has no function {made}: {name!r} {is_not}. Define it, or name "
                "another module."
            )
    return module


def build_model(application: str, module: ModuleType, mesh_size: int | None, ranks_per_sample: int = 1) -> Any:
    """The application's `hd.JacobianModel` on this run's sample communicator; collective.

    Raises
    ------
    InputError
        If `build` cannot be called so, or returns something else.
    Exception
        What `build` raises; a `GenerationError` where it raises on other ranks only.
    """
    from mpi4py import MPI

    from hippylib_dino.data.together import Ranks
    from hippylib_dino.modeling import JacobianModel, sample_communicator

    size = {} if mesh_size is None else {"mesh_size": mesh_size}
    comm = sample_communicator(ranks_per_sample)
    try:
        inspect.signature(module.build).bind(comm, **size)
    except TypeError as error:
        remedy = "Give all arguments but comm defaults"
        if "mesh_size" in str(error):
            remedy = "Pass --mesh-size" if mesh_size is None else "Leave --mesh-size away, or let build take it"
        raise InputError(
            f"APPLICATION: build{inspect.signature(module.build)} of {application!r} cannot be called as build("
            f"{', '.join(('comm', *(f'{name}={value}' for name, value in size.items())))}): {error}. {remedy}."
        ) from error
    except ValueError:
        pass  # of a function that is not Python's, nothing is known
    # as one group: dolfin compiles expressions on all ranks together, whatever the mesh lives on, so that the others
    # may be waiting for a rank that raised
    model = Ranks(MPI.COMM_WORLD).together(lambda: left_alone(lambda: module.build(comm, **size)))
    if not isinstance(model, JacobianModel):
        raise InputError(
            f"APPLICATION: expected build of {application!r} to return an hd.JacobianModel, got "
            f"{type(model).__name__}; return hd.JacobianModel(pde, prior, misfit)."
        )
    return model


def silence_fenics() -> None:
    """Import dolfin and hIPPYlib, and let dolfin say nothing but errors.

    Raises
    ------
    LibraryError
        If one of them cannot be imported.
    """
    try:
        import dolfin as dl
        import hippylib  # noqa: F401  before the user's module, whose import would fail less clearly
    except ImportError as error:
        missing = error.name or "dolfin"
        raise LibraryError(
            f"{missing}: cannot be imported ({error}), and this command needs FEniCS 2019 and hIPPYlib. Run it where "
            "`python -c 'import dolfin, hippylib'` passes; README.md says how to install them."
        ) from error
    dl.set_log_level(dl.LogLevel.ERROR)


def left_alone(work: Callable[[], Any]) -> Any:
    """What `work` of the user's returns; a script that ends the process is told from one that is done."""
    try:
        return work()
    except SystemExit as error:
        raise RuntimeError(
            f"the module calls sys.exit({error.code!r}) when it is imported or built; put what is a script under "
            "if __name__ == '__main__'"
        ).with_traceback(error.__traceback__) from None


class OwnLines(NamedTuple):
    """Lines of the user's own modules as a traceback shows them, and the exception that came through them."""

    frames: str
    error: str


def own_lines(error: BaseException) -> OwnLines | None:
    """The lines of the user's own modules that `error`, or what it was raised from, came through; None of no such.

    His are the files outside this package, Python's library and what is installed.
    """
    for link in _chain(error):
        told = "".join(traceback.format_exception_only(link))
        if isinstance(link, SyntaxError) and link.filename is not None and _is_own(link.filename):
            return OwnLines("", told)
        frames = [frame for frame in traceback.extract_tb(link.__traceback__) if _is_own(frame.filename)]
        if frames:
            return OwnLines("".join(traceback.format_list(frames)), told)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_own(file: str) -> bool:
    path = os.path.realpath(file)
    libraries = (_PACKAGE, *(os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")))
    return not (
        file.startswith("<")
        or any(part in _INSTALLED for part in Path(file).parts)
        or any(path.startswith(library + os.sep) for library in libraries)
    )

"""Finite element functions as pictures, and for ParaView."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import dolfin as dl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation
from numpy.typing import ArrayLike

from hippylib_dino.modeling.spaces import set_owned_values
from hippylib_dino.plotting.figures import check_entries, input_error

FIELD_MAP, DIFFERENCE_MAP = "viridis", "RdBu_r"
PANEL = 2.6  # inches, height of a square panel
WIDEST = 8.0  # inches, width of a panel


class _Picture:
    """A scalar function as triangles and vertex values (n_vertices,).  Raises `InputError`."""

    def __init__(self, function: dl.Function, argument: str):
        _check_function(function, argument)
        if function.ufl_shape != ():
            raise input_error(
                argument,
                expected="a scalar function",
                received=f"one of shape {function.ufl_shape}",
                remedy="Plot function.sub(i, deepcopy=True), or its magnitude projected on a scalar space.",
            )
        mesh = function.function_space().mesh()
        if mesh.ufl_cell().cellname() != "triangle" or mesh.geometry().dim() != 2:
            raise input_error(
                argument,
                expected="a function on a 2D mesh of triangles",
                received=f"cells {mesh.ufl_cell().cellname()} in {mesh.geometry().dim()}D",
                remedy="Write it with write_xdmf and open it in ParaView.",
            )
        if mesh.mpi_comm().size > 1:
            raise input_error(
                argument,
                expected="a mesh on one rank",
                received=f"one distributed over {mesh.mpi_comm().size} ranks",
                remedy="Write it with write_xdmf, or rebuild it on a mesh on MPI.COMM_SELF.",
            )
        x, y = mesh.coordinates().T
        self.triangles = Triangulation(x, y, mesh.cells())
        self.corners = (x.min(), x.max(), y.min(), y.max())
        self.values = function.compute_vertex_values(mesh)
        if not np.isfinite(self.values).all():
            raise input_error(
                argument,
                expected="finite values",
                received="nan or infinite ones",
                remedy="Check that the solve that made it converged.",
            )

    @property
    def aspect(self) -> float:
        """Height over width of the domain."""
        left, right, bottom, top = self.corners
        return (top - bottom) / (right - left)

    def draw(self, axes: Axes, *, limits: tuple[float, float], color_map: str, units: str) -> None:
        """Colours between `limits`, an equal aspect and a colour bar as high as the picture."""
        image = axes.tripcolor(
            self.triangles, self.values, shading="gouraud", cmap=color_map, vmin=limits[0], vmax=limits[1],
            rasterized=True,
        )  # fmt: skip
        axes.set_aspect("equal")
        axes.margins(0.0)
        width = np.clip(0.05 * self.aspect, 0.01, 0.1)
        bar = axes.figure.colorbar(image, cax=axes.inset_axes((1.0 + width, 0.0, width, 1.0)))
        bar.set_label(units)


def _check_function(function: dl.Function, argument: str) -> None:
    if not isinstance(function, dl.Function):
        raise input_error(
            argument,
            expected="a dolfin.Function",
            received=type(function).__name__,
            remedy="Turn a vector into one with hp.vector2Function(vector, space).",
        )


def _range(pictures: Sequence[_Picture]) -> tuple[float, float]:
    """Smallest and largest value of all pictures, apart also for a constant."""
    low, high = min(p.values.min() for p in pictures), max(p.values.max() for p in pictures)
    return (low, high) if high > low else (low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0))


def _symmetric_range(pictures: Sequence[_Picture]) -> tuple[float, float]:
    """(-a, a) with a the largest absolute value of all pictures, 1 where all are zero."""
    largest = max(np.abs(p.values).max() for p in pictures) or 1.0
    return -largest, largest


def _panels(pictures: Sequence[_Picture]) -> tuple[Figure, list[Axes]]:
    """A figure with one axes a picture; rows of about the same length, shorter for wide domains."""
    n, aspect = len(pictures), min(picture.aspect for picture in pictures)
    rows = math.ceil(n / np.clip(round(4 * aspect), 1, 4))
    columns = math.ceil(n / rows)
    width = min(PANEL * np.clip(aspect, 1.0, 2.0) / aspect, WIDEST)
    # beside and above the picture: colour bar, ticks, labels, title
    figure = Figure(figsize=(columns * (width + 1.3), rows * (width * aspect + 0.6)), layout="compressed")
    panels = [figure.add_subplot(rows, columns, i + 1) for i in range(n)]
    same = all(picture.corners == pictures[0].corners for picture in pictures)
    for i, axes in enumerate(panels):
        lowest, leftmost = i + columns >= n or not same, i % columns == 0 or not same
        axes.set(xlabel="x" if lowest else "", ylabel="y" if leftmost else "")
        axes.tick_params(labelbottom=lowest, labelleft=leftmost)
    return figure, panels


def _points(points: ArrayLike | None) -> np.ndarray | None:
    """Observation points as an array (n, 2)."""
    if points is None:
        return None
    array = np.asarray(points, dtype=float)
    if array.ndim != 2 or array.shape[1] != 2:
        raise input_error(
            "points",
            expected="shape (n, 2), coordinates x and y of each point",
            received=f"shape {array.shape}",
            remedy="Pass the array that hp.assemblePointwiseObservation was given.",
        )
    return array


def plot_fields(
    functions: Mapping[str, dl.Function],
    *,
    differences: Sequence[str] = (),
    points: ArrayLike | None = None,
    units: str = "",
) -> Figure:
    """Scalar fields side by side on one colour scale, so that they can be compared.

    Fields named in `differences` are drawn on a second scale, diverging, symmetric about zero and
    shared among them.  Functions of any degree are shown by their values at the vertices; project a
    discontinuous one on a Lagrange space first.

    Parameters
    ----------
    functions : dict of dolfin.Function
        Title to scalar function on a 2D mesh of triangles on one rank; the meshes may differ.
    differences : sequence of str
        Titles of functions that are differences.
    points : (n, 2), optional
        Observation points to mark, in the mesh's length unit.
    units : str
        Label of the colour bars.

    Returns
    -------
    matplotlib.figure.Figure
        One axes a function, in order; inner axes of a common domain carry no coordinates.

    Raises
    ------
    InputError
        If a function is not of that kind, or a name in `differences` is none of the titles.

    Examples
    --------
    >>> space = dl.FunctionSpace(dl.UnitSquareMesh(4, 4), "Lagrange", 1)
    >>> x, y = (dl.interpolate(dl.Expression(f"x[{i}]", degree=1), space) for i in range(2))
    >>> figure = plot_fields({"x": x, "y": y})
    >>> [axes.get_title() for axes in figure.axes]
    ['x', 'y']
    """
    check_entries(functions, "functions")
    if isinstance(differences, str):
        differences = (differences,)
    unknown = [name for name in differences if name not in functions]
    if unknown:
        raise input_error(
            "differences",
            expected=f"titles among {list(functions)}",
            received=f"{unknown}",
            remedy="Name the functions as in the dict.",
        )
    marks = _points(points)
    pictures = {name: _Picture(function, f"functions[{name!r}]") for name, function in functions.items()}
    shared = [picture for name, picture in pictures.items() if name not in differences]
    signed = [picture for name, picture in pictures.items() if name in differences]
    shared_limits = _range(shared) if shared else (0.0, 1.0)
    signed_limits = _symmetric_range(signed) if signed else (-1.0, 1.0)

    figure, panels = _panels(list(pictures.values()))
    for axes, (name, picture) in zip(panels, pictures.items(), strict=True):
        if name in differences:
            picture.draw(axes, limits=signed_limits, color_map=DIFFERENCE_MAP, units=units)
        else:
            picture.draw(axes, limits=shared_limits, color_map=FIELD_MAP, units=units)
        axes.set_title(name)
        if marks is not None:
            axes.plot(*marks.T, "o", markersize=3, color="white", markeredgecolor="black", markeredgewidth=0.6)
    return figure


def plot_modes(space: dl.FunctionSpace, decoder: np.ndarray, indices: Sequence[int]) -> Figure:
    """Basis modes in a grid, each on its own scale, symmetric about zero.

    Parameters
    ----------
    space : dolfin.FunctionSpace
        Scalar, on a 2D mesh of triangles on one rank.
    decoder : (dM, rM)
        Columns are modes, primal, rows in dolfin's local order; from the canonical order of a basis
        it is ``DofOrder(space).from_array(basis.decoder)``.
    indices : sequence of int
        Columns to draw, from 0; the titles count from 1 as the spectra do.

    Returns
    -------
    matplotlib.figure.Figure
        One axes a mode, in the order of `indices`.

    Raises
    ------
    InputError
        If `decoder` does not fit `space`, or an index is not a column.

    Examples
    --------
    >>> space = dl.FunctionSpace(dl.UnitSquareMesh(4, 4), "Lagrange", 1)
    >>> figure = plot_modes(space, np.eye(space.dim()), [0, 2])
    >>> [axes.get_title() for axes in figure.axes]
    ['mode 1', 'mode 3']
    """
    decoder = np.asarray(decoder, dtype=float)
    if decoder.ndim != 2 or decoder.shape[0] != space.dim():
        raise input_error(
            "decoder",
            expected=f"shape ({space.dim()}, rM), a row for each degree of freedom of the space",
            received=f"shape {decoder.shape}",
            remedy="Pass basis.decoder with the function space that the basis was made on.",
        )
    wrong = [i for i in indices if not 0 <= i < decoder.shape[1]]
    if wrong or len(indices) == 0:
        raise input_error(
            "indices",
            expected=f"at least one, between 0 and {decoder.shape[1] - 1}",
            received=f"{wrong or 'none'}",
            remedy="Columns count from 0; the decoder has as many as the basis has modes.",
        )
    pictures = []
    for i in indices:
        mode = dl.Function(space)
        set_owned_values(mode.vector(), decoder[:, i])
        pictures.append(_Picture(mode, "space"))
    figure, panels = _panels(pictures)
    for axes, i, picture in zip(panels, indices, pictures, strict=True):
        picture.draw(axes, limits=_symmetric_range([picture]), color_map=DIFFERENCE_MAP, units="")
        axes.set_title(f"mode {i + 1}")
    return figure


def write_xdmf(path: str | os.PathLike, functions: Mapping[str, dl.Function]) -> None:
    """Write functions to one XDMF file for ParaView, its data in the .h5 beside it; an old one is replaced.

    Collective over the mesh's ranks.  Functions of degree above 1 are written by their values at
    the vertices, as ParaView shows them.

    Parameters
    ----------
    path : path
        Ends in .xdmf.
    functions : dict of dolfin.Function
        Name in ParaView to scalar, vector or tensor function; all on one mesh.

    Raises
    ------
    InputError
        If the suffix is another, or the functions live on several meshes.
    """
    path = Path(path)
    if path.suffix != ".xdmf":
        raise input_error(
            "path",
            expected="a name that ends in .xdmf",
            received=repr(path.name),
            remedy=f"Write to {path.with_suffix('.xdmf').name}.",
        )
    check_entries(functions, "functions")
    for name, function in functions.items():
        _check_function(function, f"functions[{name!r}]")
    meshes = {name: function.function_space().mesh() for name, function in functions.items()}
    first, mesh = next(iter(meshes.items()))
    for name, other in meshes.items():
        if other.id() != mesh.id():
            raise input_error(
                f"functions[{name!r}]",
                expected=f"a function on the mesh of {first!r}",
                received="one on another mesh",
                remedy="Interpolate it to that mesh, or write it to a file of its own.",
            )
    with dl.XDMFFile(mesh.mpi_comm(), str(path)) as file:
        file.parameters["functions_share_mesh"] = True
        file.parameters["rewrite_function_mesh"] = False
        file.parameters["flush_output"] = True
        for name, function in functions.items():
            named = function.copy(deepcopy=True)  # to leave the name of the caller's function alone
            named.rename(name, name)
            file.write(named, 0.0)

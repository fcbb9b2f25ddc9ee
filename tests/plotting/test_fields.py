"""Pictures of finite element functions: their scales, labels and values; ParaView files; what is refused."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import dolfin as dl
import numpy as np
import pytest

from hippylib_dino.errors import InputError
from hippylib_dino.plotting import plot_fields, plot_modes, save, write_xdmf


@pytest.fixture(scope="module")
def space():
    return dl.FunctionSpace(dl.RectangleMesh(dl.Point(0, 0), dl.Point(2, 1), 8, 4), "Lagrange", 1)


def affine(space, a, b, c):
    """a x + b y + c on `space`."""
    return dl.interpolate(dl.Expression("a*x[0] + b*x[1] + c", a=a, b=b, c=c, degree=1), space)


@pytest.fixture
def fields(space):
    return {
        "true": affine(space, 1.0, 0.0, 0.0),  # in [0, 2]
        "MAP, PDE": affine(space, 1.0, 1.0, -0.5),  # in [-0.5, 2.5]
        "surrogate − PDE": affine(space, -0.1, 0.0, 0.05),  # in [-0.15, 0.05]
        "true − PDE": affine(space, 0.0, 0.4, 0.0),  # in [0, 0.4]
    }


DIFFERENCES = ("surrogate − PDE", "true − PDE")


def picture(axes):
    """The coloured mesh of a panel."""
    return axes.collections[0]


def colour_bar(axes):
    (bar,) = axes.child_axes
    return bar


def by_title(figure):
    return {axes.get_title(): axes for axes in figure.axes}


def test_fields_share_one_scale_and_differences_another(fields):
    panels = by_title(plot_fields(fields, differences=DIFFERENCES))
    assert list(panels) == list(fields)
    for name, axes in panels.items():
        image = picture(axes)
        np.testing.assert_allclose(image.get_clim(), (-0.4, 0.4) if name in DIFFERENCES else (-0.5, 2.5))
        assert image.get_cmap().name == ("RdBu_r" if name in DIFFERENCES else "viridis")
        assert colour_bar(axes).get_ylim() == image.get_clim()


def test_without_differences_all_share_one_scale(fields):
    limits = {picture(axes).get_clim() for axes in plot_fields(fields).axes}
    assert len(limits) == 1


def test_one_name_as_a_string_is_one_difference(fields):
    panels = by_title(plot_fields(fields, differences="true − PDE"))
    assert picture(panels["true − PDE"]).get_clim() == (-0.4, 0.4)
    assert picture(panels["surrogate − PDE"]).get_cmap().name == "viridis"


def test_only_differences_can_be_drawn(fields):
    figure = plot_fields({"true − PDE": fields["true − PDE"]}, differences=["true − PDE"])
    assert picture(figure.axes[0]).get_clim() == (-0.4, 0.4)


def test_values_sit_at_their_vertices(fields):
    axes = by_title(plot_fields(fields))["MAP, PDE"]
    image = picture(axes)
    x, y = image._triangulation.x, image._triangulation.y
    np.testing.assert_allclose(image.get_array(), x + y - 0.5, atol=1e-14)


def test_a_quadratic_function_is_drawn_by_its_vertex_values(space):
    P2 = dl.FunctionSpace(space.mesh(), "Lagrange", 2)
    (axes,) = plot_fields({"x": affine(P2, 1.0, 0.0, 0.0)}).axes
    np.testing.assert_allclose(picture(axes).get_array(), space.mesh().coordinates()[:, 0], atol=1e-14)


def test_labels_aspect_and_units(fields):
    for axes in plot_fields(fields, units="log m").axes:
        assert axes.get_aspect() == 1.0
        assert colour_bar(axes).get_ylabel() == "log m"
    first = plot_fields({"true": fields["true"]}).axes[0]
    assert (first.get_xlabel(), first.get_ylabel()) == ("x", "y")


def test_panels_on_other_domains_each_carry_coordinates(fields):
    other = dl.FunctionSpace(dl.UnitSquareMesh(3, 3), "Lagrange", 1)
    for axes in plot_fields({"coarse": affine(other, 1.0, 0.0, 3.0), "fine": fields["true"]}).axes:
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("x", "y")
        assert picture(axes).get_clim() == (0.0, 4.0)


def test_points_are_marked_on_every_panel(fields):
    points = np.array([[0.5, 0.5], [1.5, 0.25], [1.0, 0.75]])
    for axes in plot_fields(fields, points=points).axes:
        (marks,) = axes.lines
        np.testing.assert_array_equal(marks.get_xydata(), points)
        assert marks.get_linestyle() == "None"
        assert axes.get_xlim() == (0.0, 2.0)


def test_constant_and_zero_fields_have_a_scale(space):
    one, zero = affine(space, 0.0, 0.0, 1.0), affine(space, 0.0, 0.0, 0.0)
    field, difference = plot_fields({"one": one, "zero": zero}, differences=["zero"]).axes
    low, high = picture(field).get_clim()
    assert low < 1.0 < high
    assert picture(difference).get_clim() == (-1.0, 1.0)


def test_the_picture_can_be_saved(fields, tmp_path):
    save(plot_fields(fields, differences=DIFFERENCES, points=[[0.5, 0.5]]), tmp_path / "fields.png")
    assert (tmp_path / "fields.png").stat().st_size > 5000


def test_modes_are_columns_in_dolfin_order(space):
    x = space.tabulate_dof_coordinates()
    decoder = np.stack([x[:, 0] - 1.0, x[:, 1], 5.0 * x[:, 0] * x[:, 1]], axis=1)
    panels = by_title(plot_modes(space, decoder, [2, 0]))
    assert list(panels) == ["mode 3", "mode 1"]
    at_vertices = space.mesh().coordinates()
    np.testing.assert_allclose(picture(panels["mode 1"]).get_array(), at_vertices[:, 0] - 1.0, atol=1e-14)
    assert picture(panels["mode 1"]).get_clim() == (-1.0, 1.0)
    assert picture(panels["mode 3"]).get_clim() == (-10.0, 10.0)


def test_modes_fill_a_grid(space):
    square = dl.FunctionSpace(dl.UnitSquareMesh(2, 2), "Lagrange", 1)
    figure = plot_modes(square, np.eye(square.dim()), range(6))
    assert {axes.get_subplotspec().get_gridspec().get_geometry() for axes in figure.axes} == {(2, 3)}


def attributes(path):
    return {node.get("Name"): node for node in ElementTree.parse(path).iter("Attribute")}


def read_back(path, node, size):
    """The values of one attribute, as dolfin reads them from the .h5 file."""
    name, dataset = node.find("DataItem").text.strip().split(":")
    vector = dl.Vector(dl.MPI.comm_self, size)
    with dl.HDF5File(dl.MPI.comm_self, str(path.with_name(name)), "r") as file:
        file.read(vector, dataset, False)
    return vector.get_local()


def test_xdmf_holds_all_fields_on_one_mesh(fields, space, tmp_path):
    path = tmp_path / "map.xdmf"
    velocity = dl.interpolate(
        dl.Expression(("x[0]", "x[1]"), degree=1), dl.VectorFunctionSpace(space.mesh(), "Lagrange", 2)
    )
    before = fields["true"].name()
    write_xdmf(path, {**fields, "velocity <v>": velocity})
    nodes = attributes(path)
    assert set(nodes) == {*fields, "velocity <v>"}
    assert nodes["true"].get("AttributeType") == "Scalar"
    assert nodes["velocity <v>"].get("AttributeType") == "Vector"
    (geometry,) = ElementTree.parse(path).iter("Geometry")  # one mesh for all fields
    assert geometry.find("DataItem").get("Dimensions") == f"{space.mesh().num_vertices()} 2"
    assert fields["true"].name() == before
    for name, function in fields.items():
        expected = function.compute_vertex_values(space.mesh())
        np.testing.assert_allclose(read_back(path, nodes[name], expected.size), expected, atol=1e-14)


def test_xdmf_takes_a_component_of_a_mixed_function(space, tmp_path):
    cell = space.mesh().ufl_cell()
    P1 = dl.FiniteElement("Lagrange", cell, 1)
    mixed = dl.interpolate(
        dl.Expression(("x[0]", "7.0"), degree=1), dl.FunctionSpace(space.mesh(), dl.MixedElement([P1, P1]))
    )
    path = tmp_path / "mixed.xdmf"
    write_xdmf(path, {"second": mixed.split()[1]})
    values = read_back(path, attributes(path)["second"], space.dim())
    np.testing.assert_allclose(values, 7.0)


def test_xdmf_replaces_an_old_file(fields, tmp_path):
    path = tmp_path / "again.xdmf"
    write_xdmf(path, fields)
    write_xdmf(path, {"only": fields["true"]})
    assert set(attributes(path)) == {"only"}


def vector_valued():
    return dl.Function(dl.VectorFunctionSpace(dl.UnitSquareMesh(2, 2), "Lagrange", 1))


def with_nan(space):
    function = affine(space, 1.0, 0.0, 0.0)
    function.vector()[:] = np.nan
    return function


def on_tetrahedra():
    return dl.Function(dl.FunctionSpace(dl.UnitCubeMesh(1, 1, 1), "Lagrange", 1))


def x_on(space):
    return affine(space, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: plot_fields({}), "functions|at least one entry|empty|Pass"),
        (lambda s: plot_fields({"m": x_on(s).vector()}), "functions['m']|dolfin.Function|Vector|hp.vector2Function"),
        (lambda s: plot_fields({"v": vector_valued()}), "functions['v']|scalar|(2,)|deepcopy"),
        (lambda s: plot_fields({"m": with_nan(s)}), "functions['m']|finite|nan|converged"),
        (lambda s: plot_fields({"m": on_tetrahedra()}), "functions['m']|triangles|tetrahedron in 3D|write_xdmf"),
        (lambda s: plot_fields({"m": x_on(s)}, differences=["d"]), "differences|['m']|['d']|Name"),
        (lambda s: plot_fields({"m": x_on(s)}, points=[0.5, 0.5]), "points|(n, 2)|(2,)|Pass"),
        (lambda s: plot_modes(s, np.ones((3, 2)), [0]), "decoder|(45, rM)|(3, 2)|Pass"),
        (lambda s: plot_modes(s, np.ones((45, 2)), [0, 2]), "indices|between 0 and 1|[2]|count from 0"),
        (lambda s: plot_modes(s, np.ones((45, 2)), []), "indices|at least one|none|count from 0"),
        (lambda s: write_xdmf("map.h5", {"m": x_on(s)}), "path|.xdmf|map.h5|map.xdmf"),
        (
            lambda s: write_xdmf("map.xdmf", {"m": x_on(s), "v": vector_valued()}),
            "functions['v']|mesh of 'm'|another mesh|Interpolate",
        ),
    ],
)
def test_wrong_arguments_are_named(space, call, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        call(space)
    message = str(caught.value)
    assert message.startswith(words.split("|")[0] + ":")
    assert all(word in message for word in words.split("|")), message
    assert list(tmp_path.iterdir()) == []

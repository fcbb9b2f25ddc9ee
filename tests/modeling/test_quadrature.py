import dolfin as dl
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.modeling.compiled_forms import CompiledForms
from hippylib_dino.modeling.form_splitting import ufl
from hippylib_dino.modeling.quadrature import highest_degree, linear_with_fixed_degrees, with_fixed_degrees
from hippylib_dino.modeling.spaces import owned_values, set_owned_values


@pytest.fixture(scope="module")
def mesh():
    return dl.UnitSquareMesh(hd.sample_communicator(), 4, 4)


@pytest.fixture(scope="module")
def functions(mesh):
    """State and parameter, rough, and a test function."""
    space, rng = dl.FunctionSpace(mesh, "Lagrange", 1), np.random.default_rng(0)
    u, m = dl.Function(space), dl.Function(space)
    set_owned_values(u.vector(), rng.uniform(size=space.dim()))
    set_owned_values(m.vector(), 2.0 * rng.standard_normal(space.dim()))
    return u, m, dl.TestFunction(space)


def many_measures(mesh, u, m, p):
    """Numbered parts that overlap the whole, tuples of them, facets inside and outside, and an own degree."""
    cells, facets = dl.MeshFunction("size_t", mesh, 2, 0), dl.MeshFunction("size_t", mesh, 1, 0)
    for cell in dl.cells(mesh):
        cells[cell] = 1 if cell.midpoint()[0] < 0.5 else 2 if cell.midpoint()[1] < 0.5 else 0
    for facet in dl.facets(mesh):
        facets[facet] = 1 if facet.midpoint()[0] < 0.1 else 0
    dx, ds = (dl.Measure(kind, domain=mesh, subdomain_data=marks) for kind, marks in (("dx", cells), ("ds", facets)))
    return (
        dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p)) * dx
        + u**3 * dl.exp(m * u) * p * dx(1)
        + u * p * dx((1, 2))
        + m**4 * u * p * dx(2)
        + m * u * p * dx(degree=1)
        + dl.exp(m) * u * p * ds(1)
        + dl.exp(2 * m + u**2) * p * ds
        + dl.avg(dl.exp(m) * u) * dl.jump(p) * dl.dS(domain=mesh)
    )


def assembled(form):
    return owned_values(dl.assemble(form))


def test_derivative_is_that_of_the_assembled_numbers_for_all_measures(mesh, functions):
    """Central differences of the assembled vector in the parameter; UFL's own degrees fail."""
    u, m, p = functions
    form = many_measures(mesh, u, m, p)
    fixed = with_fixed_degrees(form)
    here, values = assembled(form), owned_values(m.vector())
    np.testing.assert_allclose(assembled(fixed), here, rtol=0, atol=1e-13 * np.abs(here).max())
    direction = dl.Function(m.function_space())
    set_owned_values(direction.vector(), np.cos(np.arange(len(values))))
    slopes = [assembled(ufl.action(dl.derivative(f, m), direction)) for f in (fixed, form)]
    step, moved = 1e-5, []
    for sign in (1, -1):
        set_owned_values(m.vector(), values + sign * step * owned_values(direction.vector()))
        moved.append(assembled(form))
    set_owned_values(m.vector(), values)
    difference = (moved[0] - moved[1]) / (2 * step)
    errors = [np.linalg.norm(slope - difference) / np.linalg.norm(difference) for slope in slopes]
    assert errors[0] < 1e-7
    assert errors[1] > 1e-3


def test_degrees_are_written_integral_by_integral(functions):
    u, m, p = functions
    form = u * p * dl.dx(1) + m**4 * p * dl.dx(2) + u * p * dl.ds + u * p * dl.dx(1, degree=7)
    fixed = with_fixed_degrees(form)
    degrees = {(i.integral_type(), i.subdomain_id(), i.metadata()["quadrature_degree"]) for i in fixed.integrals()}
    assert degrees == {("cell", 1, 2), ("cell", 2, 5), ("exterior_facet", "everywhere", 2), ("cell", 1, 7)}
    assert highest_degree(form) == 7


def test_degree_that_the_user_set_for_all_forms_is_taken(functions):
    u, m, p = functions
    parameters = dl.parameters["form_compiler"]
    before = parameters["quadrature_degree"]
    try:
        parameters["quadrature_degree"] = 2
        assert highest_degree(dl.exp(m) * u**3 * p * dl.dx) == 2
    finally:
        parameters["quadrature_degree"] = before


def test_both_sides_of_a_linear_problem_have_their_own_degree(functions):
    u, m, p = functions
    form = linear_with_fixed_degrees(m * u * p * dl.dx - m**5 * p * dl.dx, u)
    degrees = {i.metadata()["quadrature_degree"]: u in ufl.Form([i]).coefficients() for i in form.integrals()}
    assert degrees == {3: True, 6: False}


def test_all_derivatives_of_a_problem_have_the_rules_of_its_residual(functions):
    """A, C, the gradient and second derivatives; UFL would take more points for those in m."""
    u, m, _ = functions
    space = u.function_space()

    def residual(u, m, p):
        return dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p)) * dl.dx + dl.exp(m) * u * p * dl.ds

    forms = CompiledForms([space] * 3, residual, [], [])
    expected = {"cell": 3, "exterior_facet": 5}
    derivatives = [getattr(forms, name)._ufl_form for name in ("A", "C", "Wuu", "Wmu", "Wmm")]
    for form in (*derivatives, forms._gradient_form, forms.lagrangian(u, m, dl.Function(space))):
        for integral in ufl.algorithms.expand_derivatives(form).integrals():
            assert integral.metadata()["quadrature_degree"] == expected[integral.integral_type()]

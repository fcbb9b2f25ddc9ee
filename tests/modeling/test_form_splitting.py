import dolfin as dl
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.modeling.compiled_forms import CompiledForms
from hippylib_dino.modeling.form_splitting import split, without_powers
from hippylib_dino.modeling.quadrature import with_fixed_degrees
from hippylib_dino.modeling.spaces import owned_values
from tests import problems


@pytest.fixture
def functions():
    space = dl.FunctionSpace(dl.UnitSquareMesh(hd.sample_communicator(), 4, 4), "Lagrange", 1)
    return dl.Function(space), dl.Function(space), dl.TestFunction(space)


def test_terms_go_where_they_belong(functions):
    u, m, p = functions
    diffusion, source = dl.inner(dl.grad(u), dl.grad(p)), dl.Constant(2.0) * p
    reaction, transfer = dl.exp(m) * u**3 * p, u * p
    constant, varying = split(with_fixed_degrees((diffusion + (reaction - source)) * dl.dx + transfer * dl.ds), u, m)
    assert m not in constant.coefficients()
    assert {i.integral_type() for i in varying.integrals()} == {"cell", "exterior_facet"}
    assert len(constant.integrals()) == 2  # diffusion and source
    degrees = {
        i.metadata()["quadrature_degree"] for part in (constant, varying) for i in part.integrals_by_type("cell")
    }
    assert degrees == {7}  # of the reaction term, estimated by the form language for the sum


@pytest.mark.parametrize(
    "form",
    [
        lambda u, m, p: dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p)) * dl.dx,
        lambda u, m, p: (u**3 - dl.Constant(1.0)) * p * dl.dx,
        lambda u, m, p: u * p * dl.dx,
    ],
    ids=["one term", "only a source", "nothing varies"],
)
def test_forms_without_gain_stay_whole(functions, form):
    u, m, p = functions
    assert split(with_fixed_degrees(form(u, m, p)), u, m) is None


@pytest.mark.parametrize(
    ("form", "constant_degrees"),
    [
        (lambda u, m, p: u * p * dl.dx(1) + m * u * p * dl.dx, {3}),
        (lambda u, m, p: u * p * dl.dx(degree=2) + m * u * p * dl.dx(degree=4), {2}),
    ],
    ids=["subdomains", "two rules"],
)
def test_parts_keep_the_rules_of_the_whole(functions, form, constant_degrees):
    u, m, p = functions
    constant, varying = split(with_fixed_degrees(form(u, m, p)), u, m)
    assert {i.metadata()["quadrature_degree"] for i in constant.integrals()} == constant_degrees
    assert m not in constant.coefficients()
    assert m in varying.coefficients()


def test_parts_add_up_to_residual_and_matrix_of_hippylib(models):
    model = problems.plain(models["confusion"])
    pde = model.problem
    forms = CompiledForms(pde.Vh, pde.varf_handler, pde.bc, pde.bc0)
    u, m = model.solveState(model.prior.mean), hd.data.draw_parameter(model.prior, 1, 0)
    pde.setLinearizationPoint([u, m, model.generate_vector(hp.ADJOINT)], gauss_newton_approx=True)
    forms.load(hp.STATE, u)
    forms.load(hp.PARAMETER, m)
    A = forms.update(forms.A).tensor
    np.testing.assert_allclose(A.array(), pde.A.array(), rtol=0, atol=1e-14)
    residual = u.copy()
    forms.residual(residual)
    expected = dl.assemble(
        pde.varf_handler(hp.vector2Function(u, pde.Vh[0]), hp.vector2Function(m, pde.Vh[1]), dl.TestFunction(pde.Vh[2]))
    )
    pde.bc[0].apply(expected, u)
    scale = np.abs(owned_values(expected)).max()
    np.testing.assert_allclose(owned_values(residual), owned_values(expected), rtol=0, atol=1e-12 * scale)


def test_powers_become_products():
    """The same numbers, and no call of `pow` for small whole exponents; others stay."""
    mesh = dl.UnitSquareMesh(dl.MPI.comm_self, 4, 4)
    V = dl.FunctionSpace(mesh, "Lagrange", 1)
    u, v = dl.interpolate(dl.Expression("1.5 + x[0] - x[1]", degree=1), V), dl.TestFunction(V)
    form = (u**3 + u**0.5 + (1 + u) ** 2) * v * dl.dx + dl.derivative(u**4 * dl.dx, u, v)
    rewritten = without_powers(form)
    assert str(rewritten).count("**") == 1
    a, b = dl.assemble(form), dl.assemble(rewritten)
    a.axpy(-1.0, b)
    assert a.norm("l2") <= 1e-14 * b.norm("l2")
    zero = dl.derivative(v * dl.dx, u, dl.TrialFunction(V))
    assert without_powers(zero) is zero

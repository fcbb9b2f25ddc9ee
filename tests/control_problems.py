"""Small control problems, and a caller that asks of them what SOUPy asks."""

import dolfin as dl
import hippylib as hp
import numpy as np

import hippylib_dino as hd

CONTROL = hd.ouu.CONTROL
DX = dl.dx(degree=6)  # of all derivatives too, or they are not derivatives of what is solved


def _model(comm, control_space, form, control, *, observable="state", n=6, linear=False, **options):
    mesh = dl.UnitSquareMesh(comm, n, n)
    space = dl.FunctionSpace(mesh, "Lagrange", 1)
    bc = dl.DirichletBC(space, dl.Constant(0.0), "on_boundary && x[0] < DOLFIN_EPS")
    controls = control_space(mesh)
    pde = hd.ControlProblem([space, space, space, controls], form, bc, bc, is_fwd_linear=linear, **options)
    prior = hp.BiLaplacianPrior(space, 0.2, 1.0, robin_bc=True, solver_type="lu")
    if observable == "state":
        misfit = hp.ContinuousStateObservation(space, dl.dx, bc, noise_variance=1.0)
    else:
        points = np.array([(x, y) for x in (0.3, 0.5, 0.8) for y in (0.2, 0.7)])
        B = hp.assemblePointwiseObservation(space, points)
        misfit = hp.DiscreteStateObservation(B, noise_variance=1e-2)
    return hd.JacobianModel(pde, prior, misfit, control=control)


def diffusion(u, m, p):
    return (dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p)) + u**3 * p) * DX


def wells(u, m, p, z):
    """The control is a sum of sources: its derivative never changes."""
    x = dl.SpatialCoordinate(m.function_space().mesh())
    return diffusion(u, m, p) - (z[0] * x[0] + z[1] * dl.sin(3 * x[1]) + z[2]) * p * DX


def bent(u, m, p, z):
    """The control enters in every nonlinear way, so that no second derivative vanishes."""
    reaction = (z[0] ** 2 * u + dl.sin(z[1]) * m * u + z[2] * dl.exp(m + z[0])) * p
    return diffusion(u, m, p) + reaction * DX - 5.0 * p * DX


def field(u, m, p, z):
    return diffusion(u, m, p) + (z**2 * u + m * z - dl.exp(z) - 3.0) * p * DX


def coefficients(mesh):
    return hd.ouu.CoefficientSpace(mesh, 3)


def reals(mesh):
    return dl.VectorFunctionSpace(mesh, "R", 0, dim=3)


def nodes(mesh):
    return dl.FunctionSpace(mesh, "Lagrange", 1)


def box(n, half=2.0):
    return hd.ouu.UniformControl(np.full(n, -half), np.full(n, half))


def build(name, comm, **options):
    """A problem of this module by name."""
    spaces = {"wells": coefficients, "bent": coefficients, "reals": reals, "field": nodes}
    forms = {"wells": wells, "bent": bent, "reals": bent, "field": field}
    n = 49 if name == "field" else 3
    return _model(comm, spaces[name], forms[name], box(n), **options)


def target():
    return dl.Expression("sin(3*x[0]) + x[1]", degree=2)


def soupy_quantity(pde):
    """Its derivatives in every variable are there."""
    goal = target()
    return hd.ouu.FormQuantity(
        pde.Vh, lambda u, m, z: ((u - goal) ** 4 + m * u + u * (z[0] if z.ufl_shape else z) ** 2) * DX
    )


class ControlModel:
    """Asks a problem and a quantity what SOUPy's control model and its Hessian ask."""

    def __init__(self, problem, quantity):
        self.problem, self.quantity = problem, quantity

    def point(self, m, z):
        x = [self.problem.generate_state(), m, self.problem.generate_state(), z]
        self.problem.solveFwd(x[hp.STATE], x)
        return x

    def cost(self, m, z):
        return self.quantity.cost(self.point(m, z))

    def adjoint(self, x):
        rhs = self.problem.generate_state()
        self.quantity.grad(hp.STATE, x, rhs)
        rhs *= -1.0
        self.problem.solveAdj(x[hp.ADJOINT], x, rhs)

    def gradient(self, x, i=CONTROL):
        out, own = self.new(i), self.new(i)
        evaluate = self.problem.evalGradientControl if i == CONTROL else self.problem.evalGradientParameter
        evaluate(x, out)
        self.quantity.grad(i, x, own)
        out.axpy(1.0, own)
        return out

    def hessian_action(self, x, direction, i=CONTROL):
        """Second derivative in variable i."""
        self.problem.setLinearizationPoint(x, False)
        self.quantity.setLinearizationPoint(x, False)
        du, dp = self.new(hp.STATE), self.new(hp.STATE)
        rhs = self.second(hp.ADJOINT, i, direction, both=False)
        rhs *= -1.0
        self.problem.solveIncremental(du, rhs, False)
        rhs = self.second(hp.STATE, hp.STATE, du)
        rhs.axpy(1.0, self.second(hp.STATE, i, direction))
        rhs *= -1.0
        self.problem.solveIncremental(dp, rhs, True)
        out = self.second(i, hp.ADJOINT, dp, both=False)
        out.axpy(1.0, self.second(i, hp.STATE, du))
        out.axpy(1.0, self.second(i, i, direction))
        return out

    def second(self, i, j, direction, both=True):
        out = self.new(i)
        self.problem.apply_ij(i, j, direction, out)
        if both:
            own = self.new(i)
            self.quantity.apply_ij(i, j, direction, own)
            out.axpy(1.0, own)
        return out

    def new(self, i):
        make = {hp.PARAMETER: self.problem.generate_parameter, CONTROL: self.problem.generate_control}
        return make.get(i, self.problem.generate_state)()


def vector(like, seed, scale=1.0):
    """Smooth enough: random, the same numbers in the canonical order of a partition-free vector."""
    out = like.copy()
    rng = np.random.default_rng(seed)
    everything = scale * rng.standard_normal(out.size())
    hd.modeling.set_owned_values(out, everything[slice(*out.local_range())])
    return out

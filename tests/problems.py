"""Small problems for the tests, each `build(comm) -> hd.JacobianModel`."""

import dolfin as dl
import hippylib as hp
import numpy as np

import hippylib_dino as hd
from applications import confusion as confusion_application
from applications import hyperelasticity as hyperelasticity_application
from applications import poisson as poisson_application
from applications import reaction_diffusion as reaction_diffusion_application
from hippylib_dino.modeling.quadrature import with_fixed_degrees

dl.set_log_level(dl.LogLevel.ERROR)

# the functions of this module that every law is tested on
MODELS = (
    "confusion",
    "hyperelasticity",
    "poisson",
    "reaction_diffusion",
    "vector",
    "mixed",
    "linear",
    "accelerated_vector",
    "accelerated_mixed",
    "state",
    "heat",
    "reaction",
    "controlled",
)


def sensors(n):
    return np.array([(x, y) for x in np.linspace(0.2, 0.8, n) for y in np.linspace(0.2, 0.8, n)])


def confusion(comm):
    """Nonlinear, scalar P1."""
    return confusion_application.build(comm, mesh_size=16)


def hyperelasticity(comm):
    """Nonlinear, vector P1, from an energy; 100 observables."""
    # on fewer cells sensors share a cell with the clamped edge, and hIPPYlib's `solveAdj` leaves the
    # adjoint's right-hand side on that edge: the gradient of the misfit is then wrong
    return hyperelasticity_application.build(comm, mesh_size=10)


def poisson(comm):
    """is_fwd_linear=True, P2 state and P1 parameter."""
    return poisson_application.build(comm, mesh_size=8)


def reaction_diffusion(comm):
    """Nonlinear, P2 state and P1 parameter, inhomogeneous Dirichlet data, a prior mean that is not zero."""
    # no coarser, for the sensors nearest to the bottom: see `hyperelasticity`
    return reaction_diffusion_application.build(comm, mesh_size=10)


def vector(comm):
    """Nonlinear vector state; dense noise covariance."""
    mesh = dl.UnitSquareMesh(comm, 6, 6)
    states, parameters = dl.VectorFunctionSpace(mesh, "Lagrange", 1), dl.FunctionSpace(mesh, "Lagrange", 1)
    x = dl.SpatialCoordinate(mesh)

    def residual(u, m, p):
        stiffness = dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p))
        force = dl.as_vector((1.0, 5.0 * x[0] * x[1]))
        return (stiffness + dl.inner(u, u) * dl.inner(u, p) - dl.inner(force, p)) * dl.dx

    bc = dl.DirichletBC(states, dl.Constant((0.0, 0.0)), "on_boundary && x[0] < DOLFIN_EPS")
    pde = hp.PDEVariationalProblem([states, parameters, states], residual, bc, bc, is_fwd_linear=False)
    prior = hp.BiLaplacianPrior(parameters, 0.2, 1.0, robin_bc=True, solver_type="lu")
    B = hp.assemblePointwiseObservation(states, sensors(2))
    distance = np.abs(np.subtract.outer(np.arange(8), np.arange(8)))
    return hd.JacobianModel(pde, prior, hd.CovarianceStateObservation(B, noise_covariance=1e-4 * 0.5**distance))


def mixed(comm):
    """Mixed state (flux, pressure): Darcy flow, with more observables than parameters."""
    mesh = dl.UnitSquareMesh(comm, 3, 3)
    cell = mesh.ufl_cell()
    flux, pressure = dl.VectorElement("Lagrange", cell, 2), dl.FiniteElement("Lagrange", cell, 1)
    states = dl.FunctionSpace(mesh, dl.MixedElement([flux, pressure]))
    parameters = dl.FunctionSpace(mesh, "Lagrange", 1)

    def residual(u, m, p):
        (sigma, phi), (tau, psi) = dl.split(u), dl.split(p)
        darcy = (
            dl.exp(-m) * dl.inner(sigma, tau) + dl.inner(dl.grad(phi), tau) + 0.1 * dl.inner(sigma, sigma) * phi * psi
        )
        return (darcy - dl.inner(sigma, dl.grad(psi)) - psi) * dl.dx

    bc = dl.DirichletBC(states.sub(1), dl.Constant(0.0), "on_boundary")
    pde = hp.PDEVariationalProblem([states, parameters, states], residual, bc, bc, is_fwd_linear=False)
    prior = hp.BiLaplacianPrior(parameters, 0.2, 1.0, robin_bc=True, solver_type="lu")
    B = hp.assemblePointwiseObservation(states, sensors(3))
    return hd.JacobianModel(pde, prior, hd.CovarianceStateObservation(B, noise_covariance=np.full(27, 1e-4)))


def linear(comm, constrained_domain=None):
    """-div grad u + u = m: the observable is linear in the parameter, so the posterior is Gaussian.

    A constrained domain gets a zero mean: the other one has two values where it ties points.
    """
    mesh = dl.UnitSquareMesh(comm, 8, 8)
    space = dl.FunctionSpace(mesh, "Lagrange", 1, constrained_domain=constrained_domain)

    def residual(u, m, p):
        return dl.inner(dl.grad(u), dl.grad(p)) * dl.dx + u * p * dl.dx - m * p * dl.dx

    pde = hp.PDEVariationalProblem([space] * 3, residual, [], [], is_fwd_linear=True)
    mean = None
    if constrained_domain is None:
        mean = dl.interpolate(dl.Expression("sin(3*x[0]) + x[1]", degree=2), space).vector()
    prior = hp.BiLaplacianPrior(space, 0.2, 1.0, mean=mean, robin_bc=True, solver_type="lu")
    misfit = hp.DiscreteStateObservation(hp.assemblePointwiseObservation(space, sensors(3)), noise_variance=1e-4)
    return hd.JacobianModel(pde, prior, misfit)


class Torus(dl.SubDomain):
    """Opposite sides of the unit square are one, and all its corners."""

    def inside(self, x, on_boundary):
        low, high = (any(dl.near(x[i], end) for i in (0, 1)) for end in (0.0, 1.0))
        return bool(on_boundary and low and not high)

    def map(self, x, y):
        for i in (0, 1):
            y[i] = x[i] - 1.0 if dl.near(x[i], 1.0) else x[i]


def periodic(comm):
    """`linear` on a torus: a degree of freedom on a side stands for several points of the mesh."""
    return linear(comm, Torus())


def multiplier(comm):
    """Natural conditions all around: the mean of the state vanishes by a multiplier, a Real beside it."""
    mesh = dl.UnitSquareMesh(comm, 4, 4)
    element = dl.MixedElement(
        [dl.FiniteElement(family, mesh.ufl_cell(), k) for family, k in (("Lagrange", 1), ("R", 0))]
    )
    states, parameters = dl.FunctionSpace(mesh, element), dl.FunctionSpace(mesh, "Lagrange", 1)
    x = dl.SpatialCoordinate(mesh)

    def residual(u, m, p):
        (w, mean), (v, rate) = dl.split(u), dl.split(p)
        flow = dl.exp(m) * (dl.inner(dl.grad(w), dl.grad(v)) - dl.cos(np.pi * x[0]) * v)
        return (flow + mean * v + rate * w) * dl.dx(degree=4)

    pde = hp.PDEVariationalProblem([states, parameters, states], residual, [], [], is_fwd_linear=True)
    prior = hp.BiLaplacianPrior(parameters, 0.2, 1.0, robin_bc=True, solver_type="lu")
    misfit = hp.DiscreteStateObservation(hp.assemblePointwiseObservation(states, sensors(2)), noise_variance=1e-4)
    return hd.JacobianModel(pde, prior, misfit)


def accelerated(model, **options):
    """The same inverse problem with an accelerated PDE."""
    pde = hd.AcceleratedVariationalProblem.from_problem(model.problem, **options)
    return hd.JacobianModel(pde, model.prior, model.misfit)


def accelerated_vector(comm):
    return accelerated(vector(comm))


def accelerated_mixed(comm):
    return accelerated(mixed(comm))


def plain(model):
    """The same inverse problem with hIPPYlib's own PDE, one quadrature rule for the residual and its derivatives."""
    pde = model.problem

    def residual(u, m, p):
        form = pde.varf_handler(u, m, p)
        return with_fixed_degrees(form) if isinstance(u, dl.Function) else form

    stock = hp.PDEVariationalProblem(pde.Vh, residual, pde.bc, pde.bc0, is_fwd_linear=pde.is_fwd_linear)
    return hd.JacobianModel(stock, model.prior, model.misfit)


def observe_truth(model, seed=11):
    """Noisy data of a prior sample in the model's misfit."""
    truth = hd.data.draw_parameter(model.prior, seed, 0)
    noise = model.noise_covariance.sample(np.random.default_rng(seed))
    q = model.evalObservable(truth) + noise
    first, last = model.misfit.d.local_range()
    hd.modeling.set_owned_values(model.misfit.d, q[first:last])
    return truth


def solve_map(model, **settings):
    """MAP by hIPPYlib's Newton-CG, tight.

    It ends with the step whose (g, dm), a square distance in posterior deviations, is at most 1e-10: what a further one
    would decrease the cost by is near or below the cost's rounding, and Armijo's rule would decide by the processor.
    """
    parameters = hp.ReducedSpaceNewtonCG_ParameterList()
    tight = {"rel_tolerance": 1e-9, "gdm_tolerance": 1e-10, "max_iter": 50, "print_level": -1}
    for key, value in {**tight, **settings}.items():
        parameters[key] = value
    solver = hp.ReducedSpaceNewtonCG(model, parameters)
    x = solver.solve([None, model.prior.mean.copy(), None])
    return x, solver


def state(comm):
    """Nonlinear, the whole state as observable: smaller than `confusion`, and one element finer in the state."""
    mesh = dl.UnitSquareMesh(comm, 5, 5)
    states, parameters = dl.FunctionSpace(mesh, "Lagrange", 2), dl.FunctionSpace(mesh, "Lagrange", 1)

    def residual(u, m, p):
        return (dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p)) + u**3 * p - 10.0 * p) * dl.dx(degree=6)

    bc = dl.DirichletBC(states, dl.Constant(0.0), "on_boundary && x[0] < DOLFIN_EPS")
    pde = hd.AcceleratedVariationalProblem([states, parameters, states], residual, bc, bc, is_fwd_linear=False)
    prior = hp.BiLaplacianPrior(parameters, 0.2, 1.0, robin_bc=True, solver_type="lu")
    return hd.JacobianModel(pde, prior, hp.ContinuousStateObservation(states, dl.dx, bc, noise_variance=1e-4))


def heat(comm):
    """Time-dependent, linear in the state; observed at two of four steps."""
    from tests import time_dependent_problems  # which imports this module

    return hd.JacobianModel(*time_dependent_problems.heat(comm))


def reaction(comm):
    """Time-dependent, nonlinear, Crank-Nicolson."""
    from tests import time_dependent_problems  # which imports this module

    return hd.JacobianModel(*time_dependent_problems.reaction(comm))


def controlled(comm):
    """A control problem, nonlinear in all variables, at a fixed control."""
    from tests import control_problems

    model = control_problems.build("bent", comm, observable="points")
    model.problem.control = np.array([0.7, -0.4, 0.9])
    return model


def affine_dino(model, path):
    """A DINO of the linear problem without network error: the affine map in its exact bases; its data are at `path`."""
    from hippylib_dino.network import ReducedDense

    dataset = hd.generate(
        model, path, n_samples=4, n_validation=1, n_test=1, input_rank=9, output_rank=9, progress=False
    )
    sample = dataset.split("train")
    J = sample.reduced_jacobian[0]
    return hd.DINO(
        architecture=ReducedDense(9, 9, hidden=()),
        weights=[J.T, sample.y[0] - J @ sample.x[0]],
        input_basis=dataset.input_basis,
        output_basis=dataset.output_basis,
        fingerprint=dataset.fingerprint,
    )

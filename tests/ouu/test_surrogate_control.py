import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import FingerprintError, InputError, VectorError
from hippylib_dino.modeling.spaces import owned_values
from hippylib_dino.modeling.verify import STEPS, rate
from hippylib_dino.random_streams import Purpose, seed_of
from tests import control_problems
from tests.control_problems import CONTROL, ControlModel, vector

Z = np.array([0.7, -0.4, 0.9])


@pytest.fixture
def surrogate(control_model, control_dino):
    return hd.ouu.SurrogateControlProblem(control_dino, control_model.problem.Vh)


def moved(x, h, direction):
    out = x.copy()
    out.axpy(h, direction)
    return out


def draw(model, index=0):
    return hd.data.draw_parameter(model.prior, seed_of(Purpose.PDE_ENSEMBLE, 5), index)


@pytest.mark.parametrize("variable", [hp.PARAMETER, CONTROL])
def test_taylor_rates_of_a_soupy_caller(surrogate, control_model, variable):
    """The same caller that asks the PDE: rates 2, 3; a wrong derivative is seen."""
    pde = control_model.problem
    m, z = draw(control_model), pde.control_from_array(Z)
    caller = ControlModel(surrogate, control_problems.soupy_quantity(pde))
    x = caller.point(m, z)
    caller.adjoint(x)
    along = np.array([0.5, -0.3, 0.4])
    direction = draw(control_model, 1) if variable == hp.PARAMETER else pde.control_from_array(along)
    gradient = caller.gradient(x, variable).inner(direction)
    curvature = caller.hessian_action(x, direction, variable).inner(direction)

    def cost(h):
        at = (moved(m, h, direction), z) if variable == hp.PARAMETER else (m, moved(z, h, direction))
        return caller.cost(*at)

    change = np.array([cost(h) for h in STEPS]) - caller.quantity.cost(x)
    assert rate(np.abs(change - STEPS * gradient)) == pytest.approx(2, abs=0.2)
    assert rate(np.abs(change - STEPS * gradient - STEPS**2 / 2 * curvature)) == pytest.approx(3, abs=0.25)
    assert rate(np.abs(change - 1.5 * STEPS * gradient)) < 1.8
    assert rate(np.abs(change - STEPS * gradient - 1.1 * STEPS**2 / 2 * curvature)) < 2.7


def test_third_variations_are_derivatives_of_second(surrogate, control_model):
    pde = control_model.problem
    caller = ControlModel(surrogate, None)
    x = [
        vector(pde.generate_state(), 4),
        draw(control_model),
        vector(pde.generate_state(), 5),
        pde.control_from_array(Z),
    ]
    inputs = (hp.PARAMETER, CONTROL)
    for i in (*inputs, hp.ADJOINT):
        for j in inputs:
            for k in inputs:
                jdir, kdir, exact, h, ends = vector(caller.new(j), 6), vector(caller.new(k), 7), caller.new(i), 1e-3, []
                surrogate.apply_ijk(i, j, k, x, jdir, kdir, exact)
                for step in (-h, h):
                    at = list(x)
                    at[k] = moved(x[k], step, kdir)
                    surrogate.setLinearizationPoint(at, False)
                    ends.append(owned_values(caller.second(i, j, jdir, both=False)))
                difference = (ends[1] - ends[0]) / (2 * h)
                np.testing.assert_allclose(owned_values(exact), difference, atol=1e-4 * np.abs(difference).max())


def test_ensemble_in_the_reduced_state_is_the_surrogate_in_the_full_one(surrogate, control_model, control_dino):
    """Tracking of a decoded state and its exact reduction: values, gradients and Hessians of common samples agree."""
    pde, direction = control_model.problem, np.array([0.5, -0.3, 0.4])
    quantity = hd.ouu.tracking(pde.Vh, control_problems.target())
    reduced = hd.ouu.LatentQuadratic.reduce(*quantity.of_state(), control_dino.output_basis)
    samples = hd.ouu.PDEEnsemble.draw(control_model, quantity, 3, seed=5)
    basis = control_dino.input_basis
    ensemble = hd.ouu.SurrogateEnsemble(
        control_dino.latent_map, basis.control_part(), reduced, samples.latent(basis), control_dino.control
    )
    q, J = ensemble.quantity_and_jacobian(Z)
    H = ensemble.hessian_actions(Z, direction)
    caller = ControlModel(surrogate, quantity)
    for i in range(3):
        x = caller.point(draw(control_model, i), pde.control_from_array(Z))
        caller.adjoint(x)
        assert caller.quantity.cost(x) == pytest.approx(q[i], rel=1e-9)
        np.testing.assert_allclose(owned_values(caller.gradient(x)), J[i], rtol=1e-8)
        action = caller.hessian_action(x, pde.control_from_array(direction))
        np.testing.assert_allclose(owned_values(action), H[i], rtol=1e-7, atol=1e-9)
    assert ensemble.outside(Z) is None
    assert ensemble.outside(10 * Z) is not None


def test_it_is_near_the_pde(surrogate, control_model, control_dino, control_dataset):
    pde = control_model.problem
    m, z = draw(control_model), pde.control_from_array(Z)
    truth, guess = (ControlModel(problem, None).point(m, z)[hp.STATE] for problem in (pde, surrogate))
    truth.axpy(-1.0, guess)
    error = control_dino.evaluate(control_dataset)["observable"]
    assert truth.norm("l2") < 4 * error * guess.norm("l2") + 1e-12


PARTITIONED = """
import sys, dolfin as dl, numpy as np, hippylib_dino as hd
from tests import control_problems
from tests.control_problems import ControlModel
from hippylib_dino.modeling.spaces import DofOrder, set_owned_values
dl.set_log_level(dl.LogLevel.ERROR)
dino = hd.DINO.load({path!r})
model = control_problems.build("bent", hd.sample_communicator(None))
pde = model.problem
problem = hd.ouu.SurrogateControlProblem(dino, pde.Vh)
m, order = pde.generate_parameter(), DofOrder(model.prior.Vh)
set_owned_values(m, order.from_array(0.3 * np.sin(np.arange(order.dim))))
z, dz = (pde.control_from_array(np.array(v)) for v in ([0.7, -0.4, 0.9], [0.5, -0.3, 0.4]))
caller = ControlModel(problem, control_problems.soupy_quantity(pde))
x = caller.point(m, z)
caller.adjoint(x)
numbers = [pde.control_to_array(v).tolist() for v in (caller.gradient(x), caller.hessian_action(x, dz))]
if dl.MPI.rank(dl.MPI.comm_world) == 0:
    print("RESULT", numbers)
"""


def test_a_partitioned_mesh_gives_the_same(run_python, control_dino, tmp_path):
    control_dino.save(tmp_path / "a.dino")
    found = []
    for ranks in (1, 2):
        printed = run_python(PARTITIONED.format(path=str(tmp_path / "a.dino")), ranks=ranks).stdout
        found += [eval(line.removeprefix("RESULT ")) for line in printed.splitlines() if line.startswith("RESULT")]
    assert len(found) == 2
    np.testing.assert_allclose(found[1], found[0], rtol=1e-7)


def test_a_dino_of_observables_is_one_too(tmp_path):
    model = control_problems.build("wells", hd.sample_communicator(), observable="points")
    dataset = hd.generate(
        model, tmp_path / "d", n_samples=16, n_validation=2, n_test=2, input_rank=5, output_rank=6, progress=False
    )
    dino = hd.train(dataset, epochs=5, hidden=(8,), progress=False)
    problem = hd.ouu.SurrogateControlProblem(dino, model.problem.Vh, model.misfit.d)
    x = [problem.generate_state(), draw(model), None, model.problem.control_from_array(Z)]
    problem.solveFwd(x[hp.STATE], x)
    order = hd.modeling.DofOrder(model.prior.Vh)
    latent = dino.latent(order.to_array(owned_values(x[hp.PARAMETER])), Z)
    np.testing.assert_allclose(owned_values(x[hp.STATE]), dino.output_basis.decode(dino.latent_map.value(latent)))
    with pytest.raises(InputError, match="observable: expected a vector of the observables' layout"):
        hd.ouu.SurrogateControlProblem(dino, model.problem.Vh)


def test_bad_input_is_named(surrogate, control_model, control_dino, confusion_dino, models):
    Vh = control_model.problem.Vh
    with pytest.raises(InputError, match="expected four spaces"):
        hd.ouu.SurrogateControlProblem(control_dino, Vh[:3])
    with pytest.raises(InputError, match="observable: expected none"):
        hd.ouu.SurrogateControlProblem(control_dino, Vh, control_model.misfit.d)
    with pytest.raises(InputError, match="trained with a control"):
        hd.ouu.SurrogateControlProblem(
            confusion_dino, [*models["confusion"].problem.Vh, Vh[3]], models["confusion"].misfit.d
        )
    with pytest.raises(InputError, match=r"trained without a control; use hd\.ouu\.SurrogateControlProblem"):
        hd.SurrogateModel(control_dino, control_model.prior, control_model.misfit, state_space=Vh[hp.STATE])
    with pytest.raises(InputError, match="takes 3 controls, the control space has 4"):
        hd.ouu.SurrogateControlProblem(control_dino, [*Vh[:3], hd.ouu.CoefficientSpace(Vh[0].mesh(), 4)])
    other = models["vector"].problem.Vh
    with pytest.raises(FingerprintError, match="made for another state space"):
        hd.ouu.SurrogateControlProblem(control_dino, [*other, Vh[3]])
    x = [surrogate.generate_state(), surrogate.generate_parameter(), None, surrogate.generate_state()]
    with pytest.raises(VectorError, match="z: expected a vector of size 3"):
        surrogate.solveFwd(surrogate.generate_state(), x)
    with pytest.raises(InputError, match="got a parameter without its control"):
        surrogate.observable(surrogate.generate_parameter())
    with pytest.raises(InputError, match=r"m: expected shape \(\.\.\., 49\)"):
        control_dino.latent(np.zeros(5), Z)
    with pytest.raises(InputError, match="trained with a control, which has no prior"):
        hd.ReducedInference(control_dino, 1.0)
    with pytest.raises(InputError, match="is of a parameter without a control"):
        confusion_dino.input_basis.control_part()

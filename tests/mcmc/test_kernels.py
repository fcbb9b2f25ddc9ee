"""Kernels on a Gaussian posterior known in closed form, with an exact and with a deliberately wrong surrogate."""

import arviz
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino import mcmc
from hippylib_dino.mcmc.potentials import SurrogatePotential
from hippylib_dino.modeling.spaces import owned_values, set_owned_values
from tests import problems
from tests.mcmc.gaussian import VARIANCE
from tests.surrogate import affine_problems

ENOUGH = 80  # effective samples of each comparison: with fewer, Monte Carlo deviations are rough themselves
FAR = 5.0  # Monte Carlo deviations; in all the comparisons here together one in 10^4 runs would be further off


def deviations(problem, kernel, n_samples, **options):
    """How far means of z and of z² - 1 are from 0 in their Monte Carlo deviations, z the whitened parameter; chains."""
    white = lambda x: problem.whiten @ (owned_values(x[hp.PARAMETER]) - problem.mean)  # noqa: E731
    options = {"n_chains": 2, "burn_in": 20, "progress": False, **options}
    chains = mcmc.run_chains(kernel, n_samples=n_samples, quantities={"z": white}, **options)
    found = []
    for values in (chains.quantities["z"], chains.quantities["z"] ** 2 - 1):
        error = np.array([arviz.mcse(values[..., i]) for i in range(values.shape[-1])])
        found.append(values.mean(axis=(0, 1)) / error)
    return np.abs(found), chains


def delayed(problem, surrogate, name, subchain):
    proposal = {
        "PCN": mcmc.PCN(0.2),
        "MALA": mcmc.MALA(0.04),
        "Geometric": mcmc.Geometric(2.0),
        "Laplace": mcmc.Laplace(1.0, problem.laplace),
    }[name]
    return mcmc.DelayedAcceptance(problem.model, problem.surrogates[surrogate], proposal, subchain=subchain)


CASES = [
    ("exact", "Geometric", 3, 400),
    ("wrong", "PCN", 20, 1000),
    ("wrong", "MALA", 50, 1000),
    ("wrong", "Geometric", 1, 1000),
    ("wrong", "Geometric", 4, 1000),
    ("wrong", "Laplace", 8, 1000),
]


@pytest.mark.parametrize(("surrogate", "name", "subchain", "n_samples"), CASES)
def test_delayed_acceptance_samples_the_posterior_of_the_pde(problem, surrogate, name, subchain, n_samples):
    kernel = delayed(problem, surrogate, name, subchain)
    far, chains = deviations(problem, kernel, n_samples, warm_up=100)
    assert far.max() < FAR
    assert mcmc.efficiency(chains).least > ENOUGH


def test_without_the_second_stage_the_wrong_surrogate_is_seen(problem, monkeypatch):
    """The negative control of the test above."""
    monkeypatch.setattr(mcmc.DelayedAcceptance, "_log_ratio", lambda *_: np.inf)
    far, _ = deviations(problem, delayed(problem, "wrong", "Geometric", 4), 600, warm_up=100)
    assert far.max() > 1.5 * FAR


@pytest.mark.parametrize("name", ["Geometric", "Laplace"])
def test_pde_alone_samples_its_posterior(problem, name):
    proposal = mcmc.Geometric(2.5) if name == "Geometric" else mcmc.Laplace(1.5, problem.laplace)
    kernel = mcmc.PDEKernel(problem.model, problem.surrogates["exact"].dino.input_basis, proposal, complement_step=2.5)
    far, chains = deviations(problem, kernel, 600)
    assert far.max() < FAR
    assert mcmc.efficiency(chains).least > ENOUGH


def test_exact_surrogate_is_always_believed(problem):
    """The basis holds all that the data see, so that both potentials differ by a constant."""
    chains = mcmc.run_chains(
        delayed(problem, "exact", "Geometric", 2), n_chains=1, n_samples=20, burn_in=0, progress=False
    )
    assert chains.counts[0]["accepted"] == chains.counts[0]["tested"] == 20


@pytest.mark.parametrize(
    ("flavour", "prior", "misfit"),
    [
        ("observable", "LaplacianPrior", "CovarianceStateObservation"),
        ("observable", "GaussianRealPrior", "DiscreteStateObservation"),
        ("time", "BiLaplacianPrior", "CovarianceStateObservation"),
    ],
)
def test_exact_surrogate_is_believed_with_any_prior_and_at_several_times(flavour, prior, misfit):
    model = affine_problems.build(hd.sample_communicator(), flavour, prior, misfit)
    dino = affine_problems.exact_dino(model)
    surrogate = hd.SurrogateModel(dino, model.prior, model.misfit)
    kernel = mcmc.DelayedAcceptance(model, surrogate, mcmc.Geometric(1.0), subchain=2)
    own = mcmc.PDEKernel(model, dino.input_basis, mcmc.Geometric(1.0))
    for one in (kernel, own):
        current, proposed = begin(one)
        for _ in range(10):
            one.sample(current, proposed)
            assert current.cost == pytest.approx(current.latent.potential, rel=1e-6, abs=1e-6)
        assert one.counts.accepted == one.counts.tested == 10


# ---- in hIPPYlib's own loop --------------------------------------------------------------


def begin(kernel, m0=None):
    current, proposed = (hp.mcmc.chain.SampleStruct(kernel) for _ in range(2))
    current.m.axpy(1.0, kernel.model.prior.mean if m0 is None else m0)
    kernel.init_sample(current)
    return current, proposed


class Middle:
    """A quantity of interest as hIPPYlib has them."""

    def eval(self, x):
        return owned_values(x[hp.PARAMETER])[40]


@pytest.mark.parametrize("surrogate", [True, False])
def test_kernels_run_in_the_unmodified_loop_with_its_tracers(problem, surrogate):
    kernel = delayed(problem, "wrong", "Geometric", 2)
    if not surrogate:
        kernel = mcmc.PDEKernel(problem.model, problem.surrogates["exact"].dino.input_basis, mcmc.PCN(0.01))
    chain, tracer = hp.MCMC(kernel), hp.mcmc.tracers.FullTracer(40, problem.model.problem.Vh)
    chain.parameters.update(number_of_samples=40, burn_in=20, print_level=0)
    accepted = chain.run(problem.model.prior.mean, Middle(), tracer)
    assert 0 < accepted <= 40
    assert len(np.unique(tracer.data[:, 0])) - 1 <= accepted
    assert np.isfinite(tracer.data).all()


def test_samples_carry_state_and_misfit_of_the_pde(problem):
    kernel = delayed(problem, "wrong", "Geometric", 4)
    current, proposed = begin(kernel)
    while not kernel.sample(current, proposed):
        pass
    u = problem.model.solveState(current.m)
    np.testing.assert_allclose(owned_values(current.u), owned_values(u), rtol=1e-10)
    assert current.cost == pytest.approx(problem.model.cost([u, current.m, None])[2], rel=1e-10)
    x = kernel.coordinates.encode(current.m)
    np.testing.assert_allclose(current.latent.x, x, rtol=0, atol=1e-9)
    potential = SurrogatePotential(kernel.surrogate).evaluate(x, "none").potential
    assert current.latent.potential == pytest.approx(potential, rel=1e-8)
    assert potential == pytest.approx(kernel.surrogate.cost([_observable(kernel, current.m), current.m, None])[2])


def _observable(kernel, m):
    q = kernel.surrogate.generate_vector(hp.STATE)
    kernel.surrogate.solveFwd(q, [q, m, None])
    return q


def test_one_solve_for_each_proposal_of_the_surrogate_and_none_otherwise(problem):
    kernel = delayed(problem, "wrong", "Geometric", 1)
    kernel.proposal.step = 6.0
    current, proposed = begin(kernel)
    before = problem.model.n_fwd_solve
    for _ in range(60):
        kernel.sample(current, proposed)
    assert problem.model.n_fwd_solve - before == kernel.counts.tested == kernel.counts.surrogate_accepted
    assert 0 < kernel.counts.tested < 60
    assert kernel.counts.steps == kernel.counts.surrogate_steps == 60


def test_tuned_step_is_the_longest_that_the_surrogate_accepts(problem):
    kernel = delayed(problem, "wrong", "PCN", 1)
    before = problem.model.n_fwd_solve
    h = kernel.tune(problem.model.prior.mean)
    assert h == kernel.proposal.step
    assert problem.model.n_fwd_solve == before
    assert kernel.counts == mcmc.Counts()
    kernel.warm_start(problem.model.prior.mean, 3000)
    shares = [kernel.counts.surrogate_accepted / 3000]
    kernel.restart(1)
    kernel.proposal.step = 4 * h
    kernel.warm_start(problem.model.prior.mean, 3000)
    shares.append(kernel.counts.surrogate_accepted / 3000)
    assert shares[1] < 0.2 < shares[0] + 0.05
    exact = delayed(problem, "exact", "Geometric", 1)
    assert exact.tune(problem.model.prior.mean) == 4.0  # a Gaussian posterior: no proposal is rejected
    with pytest.raises(hd.errors.InputError, match="acceptance: expected a share"):
        exact.tune(problem.model.prior.mean, acceptance=20.0)


def test_consumed_steps_leave_the_later_ones_as_they_are(problem):
    ends = []
    for consume in (False, True):
        kernel = delayed(problem, "wrong", "Geometric", 2)
        for _ in range(3):
            if consume:
                kernel.consume_random()
            else:
                kernel.sample(*begin(kernel))
        current, proposed = begin(kernel)
        kernel.sample(current, proposed)
        ends.append(proposed.latent.x)
    np.testing.assert_array_equal(*ends)


def test_data_and_noise_are_read_when_a_chain_starts(problem):
    kernel, misfit = delayed(problem, "exact", "Geometric", 1), problem.model.misfit
    first = begin(kernel)[0].latent.potential
    misfit.noise_variance = 4 * VARIANCE
    second = begin(kernel)[0].latent.potential
    misfit.noise_variance = VARIANCE
    assert second == pytest.approx(first / 4, rel=1e-10)


# ---- failures ----------------------------------------------------------------------------


def test_a_failed_solve_is_a_rejection_that_is_counted(problem, monkeypatch):
    kernel = delayed(problem, "wrong", "Geometric", 4)
    current, proposed = begin(kernel)
    solve, calls = problem.model.solveState, []

    def sometimes(m, guess=None):
        calls.append(m)
        if len(calls) % 3 == 0:
            raise hd.errors.SolveError("no convergence")
        return solve(m)

    monkeypatch.setattr(problem.model, "solveState", sometimes)
    for _ in range(30):
        kernel.sample(current, proposed)
    assert kernel.counts.solve_failures == len(calls) // 3 > 0
    assert kernel.counts.accepted <= kernel.counts.tested - kernel.counts.solve_failures


def test_the_posterior_where_the_pde_fails_is_cut_off(problem, monkeypatch):
    """Rejection where a solve fails samples the posterior restricted to where it does not."""
    kernel = delayed(problem, "wrong", "Geometric", 3)
    solve, place = problem.model.solveState, problem.whiten[0]

    def failing(m, guess=None):
        if place @ (owned_values(m) - problem.mean) > 0.0:
            raise hd.errors.SolveError("no convergence")
        return solve(m)

    start = problem.model.prior.mean.copy()
    set_owned_values(start, problem.mean - 0.5 * np.linalg.solve(problem.whiten, np.eye(81)[0]))
    monkeypatch.setattr(problem.model, "solveState", failing)
    chains = mcmc.run_chains(
        kernel, n_chains=1, n_samples=1500, starts=[start], progress=False,
        quantities={"z": lambda x: place @ (owned_values(x[hp.PARAMETER]) - problem.mean)},
    )  # fmt: skip
    z = chains.quantities["z"]
    assert z.max() <= 0.0
    assert abs(z.mean() + np.sqrt(2 / np.pi)) < FAR * arviz.mcse(z)  # of a half-normal law


def test_a_start_where_the_pde_fails_is_an_error_before_anything_runs(problem, monkeypatch):
    def fails(m, guess=None):
        raise hd.errors.SolveError("Newton did not converge.")

    monkeypatch.setattr(problem.model, "solveState", fails)
    for kernel in (
        delayed(problem, "exact", "Geometric", 1),
        mcmc.PDEKernel(problem.model, problem.surrogates["exact"].dino.input_basis, mcmc.PCN(0.1)),
    ):
        with pytest.raises(hd.errors.SolveError, match=r"cannot start where the PDE fails: Newton did not converge"):
            mcmc.run_chains(kernel, n_chains=1, n_samples=20, progress=False)
        assert kernel.counts.steps == 0


def test_a_network_without_finite_answer_is_a_rejection_that_is_counted(problem, monkeypatch):
    evaluate = SurrogatePotential.evaluate

    def bounded(self, x, derivatives):
        found = evaluate(self, x, derivatives)
        return found._replace(potential=np.nan) if x[0] > 0.0 else found

    monkeypatch.setattr(SurrogatePotential, "evaluate", bounded)
    kernel = delayed(problem, "wrong", "PCN", 4)
    start = problem.model.prior.mean.copy()
    set_owned_values(start, owned_values(start) - 0.1 * problem.surrogates["wrong"].dino.input_basis.decoder[:, 0])
    start = next(m for m in (start, _mirrored(problem, start)) if kernel.coordinates.encode(m)[0] < 0)
    current, proposed = begin(kernel, start)
    for _ in range(20):
        kernel.sample(current, proposed)
    assert kernel.counts.surrogate_failures > 0
    assert current.latent.x[0] <= 0.0
    with pytest.raises(hd.errors.SolveError, match=r"cannot start where the surrogate fails: .* not finite"):
        begin(kernel, _mirrored(problem, start))


def _mirrored(problem, m):
    out = problem.model.prior.mean.copy()
    set_owned_values(out, 2 * owned_values(out) - owned_values(m))
    return out


def test_a_network_with_nan_weights_cannot_start(problem):
    dino = problem.surrogates["exact"].dino
    broken = hd.DINO(
        dino.architecture, [np.full_like(w, np.nan) for w in dino.weights], dino.input_basis, dino.output_basis,
        dino.fingerprint,
    )  # fmt: skip
    surrogate = hd.SurrogateModel(broken, problem.model.prior, problem.model.misfit)
    with pytest.raises(hd.errors.SolveError, match="not finite"):
        begin(mcmc.DelayedAcceptance(problem.model, surrogate, mcmc.Geometric(1.0)))


# ---- bad input ---------------------------------------------------------------------------


def test_bad_input_is_named(problem):
    model, surrogate, proposal = problem.model, problem.surrogates["exact"], mcmc.Geometric(1.0)
    basis = surrogate.dino.input_basis
    kernel = mcmc.DelayedAcceptance
    stock = hp.Model(model.problem, model.prior, model.misfit)
    cases = [
        (lambda: kernel(stock, surrogate, proposal), r"model: expected an hd.JacobianModel"),
        (lambda: kernel(model, model, proposal), r"surrogate: expected an hd.SurrogateModel"),
        (lambda: kernel(model, surrogate, "geometric"), r"proposal: expected a proposal"),
        (lambda: kernel(model, surrogate, proposal, subchain=0), r"subchain: expected at least 1"),
        (lambda: kernel(model, surrogate, proposal, complement_step=0.0), r"complement_step: expected a length"),
        (lambda: mcmc.LatentCoordinates(problems.vector(hd.sample_communicator()).prior, basis), r"dimension 49"),
    ]
    for attempt, message in cases:
        with pytest.raises(hd.errors.InputError, match=message):
            attempt()


def test_a_basis_of_another_prior_is_seen(problem):
    """The chain would sample another posterior."""
    space = problem.model.prior.Vh
    other = hp.BiLaplacianPrior(space, 0.3, 1.0, robin_bc=True, solver_type="lu")
    with pytest.raises(hd.errors.InputError, match="orthonormal in this prior's precision"):
        mcmc.LatentCoordinates(other, problem.surrogates["exact"].dino.input_basis)


def test_misfits_without_gaussian_noise_on_observables_are_refused(problem, linear_dino):
    model = problem.model
    misfit = hp.MultDiscreteStateObservation(model.misfit.B, Mpar=1.0)
    surrogate = hd.SurrogateModel(linear_dino, model.prior, misfit)
    with pytest.raises(hd.errors.InputError, match="Gaussian noise on observables B u, got MultDiscrete"):
        mcmc.DelayedAcceptance(model, surrogate, mcmc.Geometric(1.0))
    whole = affine_problems.build(hd.sample_communicator(), "state")
    dino = affine_problems.exact_dino(whole)
    surrogate = affine_problems.surrogate_of(whole, dino)
    with pytest.raises(hd.errors.InputError, match="Gaussian noise on observables B u, got Continuous"):
        mcmc.DelayedAcceptance(whole, surrogate, mcmc.Geometric(1.0))

"""Where chains start, and the recipe of docs/sampling.md where starts of the prior leave them frozen."""

import warnings

import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino import mcmc
from hippylib_dino.data.streams import draw_parameter, draw_posterior
from hippylib_dino.mcmc.starts import choose_starts
from hippylib_dino.modeling.spaces import owned_values
from hippylib_dino.random_streams import Purpose, seed_of
from tests import problems

N_DRAWS = 300


def test_default_starts_are_draws_of_the_posterior_where_that_is_gaussian(problem):
    """In all 81 whitened directions, those of the complement of the basis too, whatever the order of the chains."""
    kernel = mcmc.DelayedAcceptance(problem.model, problem.surrogates["exact"], mcmc.Geometric(1.0))
    said, start = choose_starts(kernel, None, 3)
    assert said == "the surrogate's Laplace approximation"
    z = np.array([problem.whiten @ (owned_values(start(c)) - problem.mean) for c in range(N_DRAWS)])
    assert np.abs(z.mean(axis=0)).max() < 5 / np.sqrt(N_DRAWS)
    assert np.abs(z.var(axis=0) - 1).max() < 5 * np.sqrt(2 / N_DRAWS)
    again = problem.whiten @ (owned_values(choose_starts(kernel, None, 3)[1](7)) - problem.mean)
    np.testing.assert_array_equal(again, z[7])
    assert np.abs(problem.whiten @ (owned_values(choose_starts(kernel, None, 4)[1](7)) - problem.mean) - z[7]).max() > 1


def test_the_mean_is_the_map_point_of_the_surrogate(problem):
    surrogate = problem.surrogates["wrong"]
    kernel = mcmc.DelayedAcceptance(problem.model, surrogate, mcmc.PCN(1.0))
    before = problem.model.n_fwd_solve
    found = kernel.laplace().mean
    assert problem.model.n_fwd_solve == before
    x, _ = problems.solve_map(surrogate)
    np.testing.assert_allclose(
        found, kernel.coordinates.encode(x[hp.PARAMETER]), rtol=0, atol=2e-2
    )  # of deviations <= 1


def test_starts_are_recorded_in_words_and_drawn_from_what_is_said(problem):
    model, basis, laplace = problem.model, problem.surrogates["exact"].dino.input_basis, problem.laplace
    alone = mcmc.PDEKernel(model, basis, mcmc.PCN(0.1))
    proposal = "the Laplace approximation of its proposals"
    cases = [
        (alone, None, "the prior"),
        (alone, "prior", "the prior"),
        (alone, laplace, "a Gaussian posterior that was given"),
        (mcmc.PDEKernel(model, basis, mcmc.Laplace(1.0, laplace)), None, proposal),
        (hp.mcmc.kernels.gpCNKernel(model, laplace), None, proposal),
        (hp.mcmc.kernels.gpCNKernel(model, laplace), "prior", "the prior"),
        (hp.mcmc.kernels.pCNKernel(model), None, "the prior"),
    ]
    expected = {
        "the prior": draw_parameter(model.prior, seed_of(Purpose.CHAIN_START, 5), 2),
        proposal: draw_posterior(laplace, seed_of(Purpose.LAPLACE_START, 5), 2),
    }
    expected["a Gaussian posterior that was given"] = expected[proposal]
    for kernel, starts, words in cases:
        said, start = choose_starts(kernel, starts, 5)
        assert said == words
        np.testing.assert_array_equal(owned_values(start(2)), owned_values(expected[words]))
    chains = mcmc.run_chains(alone, n_chains=2, n_samples=4, burn_in=0, starts=laplace, progress=False)
    assert chains.settings["starts"] == "a Gaussian posterior that was given"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hd.errors.ChainWarning)
        assert "started from a Gaussian posterior that was given" in str(mcmc.efficiency(chains))


def test_a_network_without_finite_answer_gives_no_start(problem):
    dino = problem.surrogates["exact"].dino
    weights = [np.full_like(w, np.nan) for w in dino.weights]
    broken = hd.DINO(dino.architecture, weights, dino.input_basis, dino.output_basis, dino.fingerprint)
    surrogate = hd.SurrogateModel(broken, problem.model.prior, problem.model.misfit)
    kernel = mcmc.DelayedAcceptance(problem.model, surrogate, mcmc.Geometric(1.0))
    for attempt in (kernel.tune, lambda: mcmc.run_chains(kernel, n_samples=4, progress=False)):
        with pytest.raises(hd.errors.SolveError, match=r"cannot start where the surrogate fails: .* MAP point"):
            attempt()


def test_the_recipe_moves_all_chains_where_starts_of_the_prior_freeze_them(models, confusion_dino):
    """Half a per cent of noise: at the prior mean and its draws the surrogate's chain accepts next to nothing."""
    application = models["confusion"]
    misfit = hp.DiscreteStateObservation(application.misfit.B)
    model = hd.JacobianModel(application.problem, application.prior, misfit)
    misfit.noise_variance = (0.005 * np.abs(model.evalObservable(model.prior.mean)).max()) ** 2
    problems.observe_truth(model, seed=12)
    surrogate = hd.SurrogateModel(confusion_dino, model.prior, misfit)
    kernel = mcmc.DelayedAcceptance(model, surrogate, mcmc.Geometric(step=0.5), subchain=20)
    options = {"n_chains": 4, "n_samples": 30, "burn_in": 0, "warm_up": 1000, "progress": False}
    kernel.tune(model.prior.mean)
    with pytest.warns(hd.errors.ChainWarning, match="never moved in 30 steps"):
        frozen = mcmc.run_chains(kernel, starts="prior", **options)
    before = model.n_fwd_solve
    kernel.tune()
    assert model.n_fwd_solve == before
    chains = mcmc.run_chains(kernel, **options)
    assert chains.statistics["moved"].any(axis=1).all()
    assert chains.statistics["cost"].max() < 0.1 * frozen.statistics["cost"][:, -1].max()

"""Chains under MPI, their file, their diagnostics, their figure."""

import sys

import arviz
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino import mcmc
from hippylib_dino.mcmc.chains import STATISTICS
from hippylib_dino.mcmc.stays import longest_stay, stays
from hippylib_dino.modeling.spaces import DofOrder, owned_values
from hippylib_dino.plotting.chains import autocorrelation, plot_chains
from tests import problems


def run(comm, dino, n_chains=3, **options):
    """A few steps of several chains on the linear problem."""
    model = problems.accelerated(problems.linear(comm))
    problems.observe_truth(model)
    surrogate = hd.SurrogateModel(dino, model.prior, model.misfit)
    kernel = mcmc.DelayedAcceptance(model, surrogate, mcmc.Geometric(0.5), subchain=3)
    order = DofOrder(model.prior.Vh)
    quantities = {
        "x": lambda x: kernel.coordinates.encode(x[hp.PARAMETER]),
        "m": lambda x: order.to_array(owned_values(x[hp.PARAMETER]))[:7],
        "norm": lambda x: x[hp.PARAMETER].norm("l2"),
    }
    return mcmc.run_chains(
        kernel, n_chains=n_chains, n_samples=12, burn_in=3, warm_up=20, quantities=quantities, seed=4, progress=False,
        **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def chains(linear_dino):
    return run(hd.sample_communicator(), linear_dino)


# ---- ranks -------------------------------------------------------------------------------

SCRIPT = """
import numpy as np
import hippylib_dino as hd
from tests.mcmc import test_chains
dino = hd.DINO.load({dino!r})
for name, ranks in (("shared", 1), ("partitioned", 2)):
    chains = test_chains.run(hd.sample_communicator(ranks), dino)
    if __import__("mpi4py.MPI").MPI.COMM_WORLD.rank == 1:
        np.savez({folder!r} + "/" + name, cost=chains.statistics["cost"], **chains.quantities)
"""


def test_chains_do_not_depend_on_the_ranks(chains, linear_dino, run_python, tmp_path):
    """Two ranks that share the chains, and a mesh on two ranks, give what one rank gives."""
    linear_dino.save(tmp_path / "linear.dino")
    run_python(SCRIPT.format(dino=str(tmp_path / "linear.dino"), folder=str(tmp_path)), ranks=2, OMP_NUM_THREADS="1")
    for name, tolerance in (("shared", 0.0), ("partitioned", 1e-7)):
        found = np.load(tmp_path / f"{name}.npz")
        for key, expected in (*chains.quantities.items(), ("cost", chains.statistics["cost"])):
            np.testing.assert_allclose(found[key], expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def test_a_chain_depends_on_its_seed_and_number_alone(chains, linear_dino):
    one = run(hd.sample_communicator(), linear_dino, n_chains=1)
    np.testing.assert_array_equal(one.quantities["m"][0], chains.quantities["m"][0])
    assert len(np.unique(chains.quantities["norm"][:, -1])) == 3


# ---- traces ------------------------------------------------------------------------------


def test_statistics_tell_what_happened(chains):
    m, moved = chains.quantities["m"], chains.statistics["moved"]
    assert {name: values.shape for name, values in chains.statistics.items()} == dict.fromkeys(STATISTICS, (3, 12))
    still = (np.diff(m, axis=1) == 0).all(axis=2)
    np.testing.assert_array_equal(still, moved[:, 1:] == 0)
    np.testing.assert_array_equal(chains.statistics["square_jump"] > 0, moved == 1)
    for c, counts in enumerate(chains.counts):
        assert counts["steps"] == 15
        assert counts["surrogate_steps"] == 45
        assert 0 < chains.statistics["solves"][c, -1] <= counts["tested"]
    assert (np.diff(chains.statistics["seconds"]) > 0).all()


def test_file_holds_everything(chains, tmp_path):
    path = tmp_path / "chains.nc"
    chains.save(path)
    loaded = mcmc.Chains.load(path)
    assert (loaded.kernel, loaded.counts, loaded.settings) == (chains.kernel, chains.counts, chains.settings)
    for part in ("quantities", "statistics"):
        assert getattr(loaded, part).keys() == getattr(chains, part).keys()
        for name, values in getattr(chains, part).items():
            np.testing.assert_array_equal(getattr(loaded, part)[name], values)
    assert arviz.from_netcdf(str(path), engine="h5netcdf").posterior["x"].dims[:2] == ("chain", "draw")
    with pytest.raises(hd.errors.InputError, match="overwrite=True"):
        chains.save(path)
    chains.save(path, overwrite=True)


def test_nothing_is_written_through_a_link(chains, tmp_path):
    """Chains are written to a name beside theirs first, which everybody knows."""
    precious = tmp_path / "precious"
    precious.write_text("of somebody else")
    (tmp_path / "chains.nc.partial").symlink_to(precious)
    with pytest.raises(hd.errors.InputError, match="path: expected a plain file"):
        chains.save(tmp_path / "chains.nc")
    (tmp_path / "chains.nc.partial").unlink()
    (tmp_path / "chains.nc").symlink_to(precious)
    chains.save(tmp_path / "chains.nc", overwrite=True)  # in the place of the link
    assert precious.read_text() == "of somebody else"
    assert mcmc.Chains.load(tmp_path / "chains.nc").kernel == chains.kernel


def test_other_files_are_no_chains(tmp_path):
    with pytest.raises(hd.errors.ModelFileError, match="there is no file"):
        mcmc.Chains.load(tmp_path / "nothing.nc")
    (tmp_path / "text.nc").write_text("not a NetCDF file")
    with pytest.raises(hd.errors.ModelFileError, match="holds no chains"):
        mcmc.Chains.load(tmp_path / "text.nc")


def test_stock_kernels_of_hippylib_run_too():
    model = problems.accelerated(problems.linear(hd.sample_communicator()))
    kernel = hp.mcmc.kernels.pCNKernel(model)
    middle = {"middle": lambda x: owned_values(x[hp.PARAMETER])[40]}
    chains = mcmc.run_chains(kernel, n_chains=2, n_samples=10, burn_in=2, quantities=middle, progress=False)
    assert chains.quantities["middle"].shape == (2, 10)
    assert chains.counts == [{}, {}]
    np.testing.assert_array_equal(chains.statistics["solves"], np.tile(np.arange(1, 11), (2, 1)))


# ---- diagnostics -------------------------------------------------------------------------


def autoregressive(correlation, n=4000, shift=0.0):
    """Four stationary chains whose effective samples are known, (1 - φ)/(1 + φ) of all."""
    rng = np.random.default_rng(6)
    x = np.empty((4, n))
    x[:, 0] = rng.standard_normal(4)
    for k in range(1, n):
        x[:, k] = correlation * x[:, k - 1] + np.sqrt(1 - correlation**2) * rng.standard_normal(4)
    x[0] += shift
    steps = np.broadcast_to(np.arange(1.0, n + 1), (4, n))
    statistics = {"cost": x, "moved": np.ones((4, n)), "square_jump": 2 * np.ones((4, n)), "solves": steps}
    return mcmc.Chains("AR(1)", {"x": x}, {**statistics, "seconds": 0.5 * steps}, [], {})


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_effective_samples_are_those_of_an_autoregression(correlation):
    found = mcmc.efficiency(autoregressive(correlation))
    expected = 16000 * (1 - correlation) / (1 + correlation)
    assert found.least == found.median == pytest.approx(expected, rel=0.1)
    assert found.per_solve() == pytest.approx(found.median / 16000)
    assert found.per_second("least") == pytest.approx(found.least / 8000)
    assert (found.acceptance, found.square_jump) == (1.0, 2.0)
    assert found.worst_r_hat < 1.01
    assert "R-hat" in str(found)


def test_chains_that_have_not_met_are_seen():
    assert mcmc.efficiency(autoregressive(0.5, shift=1.0)).worst_r_hat > 1.05


def frozen(which, after=0, n=400, shift=0.0):
    """Four independent chains, of which some hold the point where they are `after` some steps."""
    chains = autoregressive(0.0, n=n)
    x, moved = chains.quantities["x"], chains.statistics["moved"]
    for c in which:
        x[c, after:] = x[c, after] + shift * c
        moved[c, after + 1 :] = 0
    chains.statistics["square_jump"] = 2 * moved
    return chains


def test_chains_that_never_moved_have_one_effective_sample_and_are_named():
    """Started at one point, where autocorrelations are 0/0, or each at another, where R-hat's denominator is zero."""
    for spread in (0.0, 1.0):
        chains = frozen(range(4))
        chains.quantities["x"][:] = 0.3 + spread * np.arange(4)[:, None]
        with pytest.warns(hd.errors.ChainWarning, match=r"chains 0, 1, 2, 3 never moved in 400 steps"):
            found = mcmc.efficiency(chains)
        assert found.least <= 4
        assert found.median <= 4
        assert found.worst_r_hat == np.inf
        assert "chains 0, 1, 2, 3 never moved" in str(found)
        assert "acceptance 0.2% / 0.2% / 0.2%" in str(found)  # of the step before the first sample


def test_one_chain_that_never_moved_is_seen_wherever_it_is():
    """At the mean of the others too, where only its variance tells."""
    for place in (0.0, 3.0):
        chains = frozen([2])
        chains.quantities["x"][2] = place
        with pytest.warns(hd.errors.ChainWarning, match="chain 2 never moved"):
            found = mcmc.efficiency(chains)
        assert found.worst_r_hat > 1.1
        assert found.acceptances.tolist() == [1.0, 1.0, 1 / 400, 1.0]
        assert found.square_jumps.tolist() == [2.0, 2.0, 2 / 400, 2.0]
    assert found.acceptance == pytest.approx((3 + 1 / 400) / 4)


@pytest.mark.parametrize("n_chains", [1, 4])
def test_chains_that_froze_after_a_few_moves_are_worth_little(n_chains):
    chains = frozen(range(4), after=3)
    chains.quantities["x"][:] = np.minimum(np.arange(400), 3)  # all the same way
    for part in (chains.quantities, chains.statistics):
        part.update({name: values[:n_chains] for name, values in part.items()})
    with pytest.warns(hd.errors.ChainWarning, match="chain 0 stood at one point for 397 of its 400 steps"):
        found = mcmc.efficiency(chains)
    assert n_chains <= found.least <= 1.1 * n_chains  # (Σl)² / Σl² = 400² / (397² + 3) = 1.015 of each


def test_a_chain_that_froze_half_way_is_named():
    with pytest.warns(hd.errors.ChainWarning, match="chain 1 stood at one point for 200 of its 400 steps"):
        assert mcmc.efficiency(frozen([1], after=200)).worst_r_hat > 1.01


def test_a_quantity_that_is_constant_by_construction_is_no_chain_that_did_not_move(recwarn):
    chains = autoregressive(0.5, n=400)
    alone = mcmc.efficiency(chains)
    volume = np.full((4, 400), 0.1) * (1 + 1e-15 * chains.quantities["x"])  # and rounding
    chains.quantities["both"] = np.stack([chains.quantities["x"], volume], axis=2)
    found = mcmc.efficiency(chains)
    assert not [w for w in recwarn if issubclass(w.category, hd.errors.ChainWarning)]
    assert np.isnan([found.effective_samples["both"][1], found.r_hat["both"][1]]).all()
    assert (found.least, found.median, found.worst_r_hat) == (alone.least, alone.median, alone.worst_r_hat)
    chains.quantities = {"volume": volume}
    found = mcmc.efficiency(chains)
    assert np.isnan([found.least, found.median, found.worst_r_hat]).all()


def test_a_quantity_stuck_in_chains_that_moved_is_worth_one_sample_of_each():
    chains = autoregressive(0.5, n=400)
    chains.quantities["x"][:] = np.arange(4)[:, None]
    found = mcmc.efficiency(chains)
    assert found.least <= 4
    assert found.worst_r_hat == np.inf


def test_numbers_that_are_not_finite_are_not_hidden():
    chains = autoregressive(0.5, n=400)
    chains.quantities["y"] = np.full((4, 400), np.nan)
    assert np.isnan(mcmc.efficiency(chains).least)


def test_stays_leave_chains_that_move_as_arviz_has_them():
    """Antithetic chains too, which have more effective samples than steps."""
    for correlation in (-0.5, 0.0, 0.9):
        chains = autoregressive(correlation)
        assert mcmc.efficiency(chains).least == float(arviz.ess(chains.quantities["x"], method="mean"))


def test_stays_of_a_chain():
    moved = np.array([1, 0, 0, 1, 1, 0])
    assert stays(moved).tolist() == [3, 1, 2]
    assert longest_stay(moved) == slice(0, 3)
    assert longest_stay(np.array([0, 1, 0, 1])) == slice(1, 3)
    assert stays(np.zeros(5)).tolist() == [5]


def test_nothing_solved_is_not_a_division_by_zero():
    chains = autoregressive(0.5, n=10)
    chains.statistics["solves"] = np.zeros((4, 10))
    assert np.isnan(mcmc.efficiency(chains).per_solve())


def test_missing_arviz_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "arviz", None)
    chains = autoregressive(0.5, n=10)
    for attempt in (chains.to_arviz, lambda: chains.save(tmp_path / "x.nc"), lambda: mcmc.efficiency(chains)):
        with pytest.raises(hd.errors.LibraryError, match=r"hippylib_dino\[mcmc\]"):
            attempt()


# ---- figure ------------------------------------------------------------------------------


def test_figure_has_a_row_for_each_component(chains):
    assert len(plot_chains(chains, "x").axes) == 6 * 3
    assert len(plot_chains(chains, "norm").axes) == 3
    figure = plot_chains(chains, "m", components=[0, 3])
    assert [figure.axes[i].get_ylabel() for i in (0, 3)] == ["m[0]", "m[3]"]
    with pytest.raises(hd.errors.InputError, match="quantity: expected one of"):
        plot_chains(chains, "y")
    with pytest.raises(hd.errors.InputError, match="components: expected numbers from 0 to 6"):
        plot_chains(chains, "m", components=[7])


def test_autocorrelation_is_that_of_the_process():
    chain = autoregressive(0.9, n=20000).quantities["x"][1]
    np.testing.assert_allclose(autocorrelation(chain)[:10], 0.9 ** np.arange(10), atol=0.08)
    assert autocorrelation(np.full(50, 0.3)).tolist() == [1.0] * 50  # of a chain that never moved


def test_chains_that_are_stuck_are_seen_in_the_figure():
    chains = frozen([2])
    x, moved = chains.quantities["x"], chains.statistics["moved"]
    x[1, 150:], moved[1, 151:] = x[1, 150], 0
    chains.quantities["x"] = np.stack([x, np.ones((4, 400))], axis=2)  # and what is constant by construction
    figure = plot_chains(chains, "x")
    assert "chain 2 never moved in 400 steps, chain 1 stood at one point for 250" in figure.get_suptitle()
    assert "held one point" in [text.get_text() for text in figure.legends[0].get_texts()]
    for row, drawn in ((0, 4), (1, 2)):
        trace, _, correlation = figure.axes[3 * row : 3 * row + 3]
        wide = {tuple(line.get_xdata()[[0, -1]]) for line in trace.lines if line.get_linewidth() > 4}
        assert wide == {(150, 399), (0, 399)}
        curves = [line.get_ydata() for line in correlation.lines[:-1]]  # the last is the axis
        assert len(curves) == drawn
        assert sum((curve == 1.0).all() for curve in curves) == (1 if row == 0 else 2)
    moving = plot_chains(autoregressive(0.5, n=100), "x")
    assert moving.get_suptitle() == "AR(1)"
    assert max(line.get_linewidth() for line in moving.axes[0].lines) < 1


# ---- bad input ---------------------------------------------------------------------------


def test_bad_input_is_named(linear_dino):
    model = problems.accelerated(problems.linear(hd.sample_communicator()))
    stock = hp.mcmc.kernels.pCNKernel(model)
    own = mcmc.PDEKernel(model, linear_dino.input_basis, mcmc.PCN(0.1))
    spectrum = np.ones(1), hp.MultiVector(model.prior.mean, 1)
    cases = [
        (stock, {}, "quantities: expected a mapping"),
        (own, {"n_chains": 0}, "n_chains: expected at least 1"),
        (own, {"n_samples": 1}, "n_samples: expected at least 2"),
        (own, {"burn_in": -1}, "burn_in: expected at least 0"),
        (own, {"warm_up": 10}, "warm_up: expected 0 for PDEKernel"),
        (own, {"starts": [model.prior.mean]}, "starts: expected 4 parameters"),
        (own, {"starts": "laplace"}, 'starts: expected parameters, an hp.GaussianLRPosterior, "prior" or None'),
        (own, {"starts": hp.GaussianLRPosterior(model.prior, *spectrum)}, "starts: this posterior has no mean"),
    ]
    for kernel, options, message in cases:
        with pytest.raises(hd.errors.InputError, match=message):
            mcmc.run_chains(kernel, progress=False, **options)
    with pytest.raises(hd.errors.InputError, match="at least 4 samples"):
        mcmc.efficiency(autoregressive(0.5, n=3))

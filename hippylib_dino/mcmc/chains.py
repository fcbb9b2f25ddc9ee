"""Several chains of `hp.MCMC`, shared among the ranks of a run, and their traces."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dolfin as dl
import hippylib as hp
import numpy as np
from tqdm import tqdm

from hippylib_dino.data.agreement import Found, Probe, check_problem, describe_posterior, of_arguments, of_weights
from hippylib_dino.data.together import Ranks
from hippylib_dino.errors import InputError, ModelFileError
from hippylib_dino.files import write_file
from hippylib_dino.mcmc.diagnostics import arviz, warn_of_stuck
from hippylib_dino.mcmc.kernels import DelayedAcceptance, LatentKernel
from hippylib_dino.mcmc.starts import Starts, check_starts, choose_starts
from hippylib_dino.mcmc.stays import account, is_stuck, longest_stay
from hippylib_dino.modeling.spaces import DofOrder, owned_values

STATISTICS = ("cost", "moved", "square_jump", "solves", "seconds")


@dataclass
class Chains:
    """Traces of several chains of one kernel, burn-in left out.

    Attributes
    ----------
    kernel : str
    quantities : dict of str to ndarray, (n_chains, n_samples, ...)
        Quantities of interest.
    statistics : dict of str to ndarray, (n_chains, n_samples)
        ``cost``, the misfit Φ; ``moved``, whether the step was accepted; ``square_jump``, ‖m_k - m_{k-1}‖²_M in the
        prior's mass matrix; ``solves`` and ``seconds``, cumulative forward solves and time since burn-in.
    counts : list of dict, one a chain
        What the kernel counted, burn-in included; empty for hIPPYlib's own kernels.
    settings : dict
        Seed, burn-in, warm-up, and in words where the chains started.
    """

    kernel: str
    quantities: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    counts: list[dict[str, int]]
    settings: dict[str, int | str]

    def stuck(self) -> dict[int, slice]:
        """Chains that never moved, or held one point for a quarter of their steps and 20 of them: number to steps."""
        return {c: longest_stay(moved) for c, moved in enumerate(self.statistics["moved"]) if is_stuck(moved)}

    def account(self) -> str:
        """The same in words; empty if there is none."""
        return account(self.statistics["moved"])

    def to_arviz(self) -> Any:
        """ArviZ `InferenceData`: ``posterior`` holds the quantities, ``sample_stats`` the statistics.

        Raises
        ------
        LibraryError
            If ArviZ is missing.
        """
        attributes = {
            "kernel": self.kernel,
            "counts": json.dumps(self.counts),
            "settings": json.dumps(self.settings),
        }
        return arviz().from_dict(posterior=self.quantities, sample_stats=self.statistics, posterior_attrs=attributes)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the traces as NetCDF, an `InferenceData` that ArviZ reads.

        Raises
        ------
        InputError
            If the file exists and `overwrite` is False, or the name beside it, to which is written first, is a link.
        LibraryError
            If ArviZ is missing.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise InputError(f"path: {str(path)!r} exists; pass overwrite=True to replace it, or choose another name.")
        traces, content, mode = self.to_arviz(), io.BytesIO(), "w"
        for name in traces.groups():  # in memory: HDF5 ends the whole process where a disk is full
            group = traces[name]
            packed = {variable: {"zlib": True} for variable in group.data_vars}
            group.to_netcdf(content, mode=mode, group=f"/{name}", engine="h5netcdf", encoding=packed)
            mode = "a"
        write_file(path, lambda stream: stream.write(content.getvalue()))

    @classmethod
    def load(cls, path: str | Path) -> Chains:
        """Read what `save` wrote.

        Raises
        ------
        ModelFileError
            If there is no such file, or it holds no chains.
        LibraryError
            If ArviZ is missing.
        """
        if not Path(path).is_file():
            raise ModelFileError(f"path: there is no file {str(path)!r}.")
        try:
            data = arviz().from_netcdf(str(path), engine="h5netcdf")
            attributes = data.posterior.attrs
            return cls(
                kernel=attributes["kernel"],
                quantities={str(name): array.values for name, array in data.posterior.data_vars.items()},
                statistics={name: data.sample_stats[name].values for name in STATISTICS},
                counts=json.loads(attributes["counts"]),
                settings=json.loads(attributes["settings"]),
            )
        except (KeyError, OSError, ValueError, AttributeError) as error:  # what damaged or other files give
            raise ModelFileError(f"path: {str(path)!r} holds no chains, or is damaged ({error}).") from error


class _Trace:
    """A tracer of `hp.MCMC`: quantities and statistics of the steps after burn-in.

    Parameters
    ----------
    model : hp.Model
    m0 : dolfin vector
        Where the chain starts.
    quantities : mapping of str to callable
    burn_in : int
    bar : tqdm
    """

    def __init__(
        self, model: hp.Model, m0: dl.GenericVector, quantities: Mapping[str, Callable], burn_in: int, bar: tqdm
    ):
        self._model, self._last, self._quantities, self._bar = model, m0.copy(), quantities, bar
        self._left = burn_in
        self._mass = model.prior.M
        self.values: dict[str, list[Any]] = {name: [] for name in quantities}
        self.statistics: dict[str, list[float]] = {name: [] for name in STATISTICS}
        self._begin()

    def _begin(self) -> None:
        self._solves, self._time = self._model.n_fwd_solve, time.perf_counter()

    def append(self, current, q) -> None:
        """Called by `hp.MCMC` after each step."""
        self._bar.update()
        jump = self._square_jump(current.m)
        if self._left > 0:
            self._left -= 1
            if self._left == 0:
                self._begin()
            return
        for name, quantity in self._quantities.items():
            self.values[name].append(np.array(quantity([current.u, current.m]), dtype=float))
        now = (
            float(current.cost),
            float(jump > 0),
            jump,
            self._model.n_fwd_solve - self._solves,
            time.perf_counter() - self._time,
        )
        for name, value in zip(STATISTICS, now, strict=True):
            self.statistics[name].append(value)

    def _square_jump(self, m: dl.GenericVector) -> float:
        self._last.axpy(-1.0, m)
        jump = float(self._last.inner(self._mass * self._last))
        self._last = m.copy()
        return jump


def run_chains(
    kernel,
    *,
    n_chains: int = 4,
    n_samples: int = 1000,
    burn_in: int = 100,
    warm_up: int = 0,
    starts: Starts = None,
    quantities: Mapping[str, Callable] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Chains:
    """Run several chains of a kernel by `hp.MCMC`.

    Under `mpirun` the groups of ranks that share a mesh share the chains.  Chain c takes its random numbers from
    (seed, c) alone, whichever rank runs it.  That holds for the kernels of this package; hIPPYlib's own draw from its
    global streams, and are neither reproducible nor independent of the ranks.

    Parameters
    ----------
    kernel : kernel of `hd.mcmc` or of `hp.mcmc`
    n_chains : int
    n_samples : int
        Steps of each chain that are kept.
    burn_in : int
        Steps before them.
    warm_up : int
        Steps of the surrogate's own chain before those, without a PDE solve; of `DelayedAcceptance` only.
    starts : sequence of dolfin vectors, hp.GaussianLRPosterior, "prior", or None
        One m0 for each chain, or what they are drawn from.  By default (None) the Laplace approximation of the
        surrogate, or the one that the kernel's proposals are made of, and the prior for a kernel that has neither: give
        such a kernel `hd.laplace(surrogate, solution)` where there is a surrogate.  Draws of the "prior" are
        overdispersed as R-hat wants them, and may find several modes, but where data are informative chains are stuck
        there.
    quantities : mapping of str to callable, optional
        Quantities of interest ``q([u, m]) -> float or array``; of hIPPYlib's the method ``eval``.  On a partitioned
        mesh every rank calls them.  By default the latent coordinates ``x`` of a kernel of this package.
    seed : int
    progress : bool
        A bar over the steps of the first group's chains.

    Returns
    -------
    Chains
        All chains, on every rank.

    Raises
    ------
    InputError
        For a bad argument.
    SolveError
        If a chain starts where the PDE or the surrogate fails: before any chain runs, on every rank.

    Warns
    -----
    ChainWarning
        On the first rank, of chains that never moved, or stood at one point for a quarter of their steps.

    Examples
    --------
    ::

        kernel.tune()
        chains = hd.mcmc.run_chains(kernel, n_chains=4, n_samples=2000, warm_up=1000)
        print(hd.mcmc.efficiency(chains))
        chains.save("chains.nc")
    """
    _check_arguments(kernel, n_chains, n_samples, burn_in, warm_up)
    check_starts(starts, n_chains)
    quantities = _default_quantities(kernel) if quantities is None else quantities
    ranks = Ranks(kernel.model.prior.mean.mpi_comm())
    numbers = of_arguments(
        n_chains=n_chains, n_samples=n_samples, burn_in=burn_in, warm_up=warm_up, seed=seed,
        quantities=sorted(quantities), kernel=kernel.name(), parameters=getattr(kernel, "parameters", None),
    )  # fmt: skip
    check_problem(ranks, lambda: {**_found(kernel, starts), **numbers})
    mine = range(ranks.world.rank // ranks.group.size, n_chains, ranks.world.size // ranks.group.size)
    begun: dict[int, dl.GenericVector] = {}
    records: dict[int, dict] = {}
    settings: dict[str, int | str] = {"seed": seed, "burn_in": burn_in, "warm_up": warm_up}

    def begin() -> None:
        settings["starts"], start = choose_starts(kernel, starts, seed)
        for c in mine:
            m0 = start(c)
            _restart(kernel, (seed, c))
            begun[c] = kernel.warm_start(m0, warm_up) if warm_up else m0
            sample = hp.mcmc.chain.SampleStruct(kernel)
            sample.m.zero()
            sample.m.axpy(1.0, begun[c])
            kernel.init_sample(sample)

    def run() -> None:
        bar = tqdm(
            total=len(mine) * (burn_in + n_samples), desc="chains", unit="step",
            disable=not (progress and ranks.is_first),
        )  # fmt: skip
        with bar:
            for c in mine:
                _restart(kernel, (seed, c))
                records[c] = _run(kernel, begun[c], quantities, n_samples, burn_in, bar)

    ranks.together(begin)
    ranks.together(run)
    everyone = ranks.world.allgather(records if ranks.writes else {})
    ordered = [record for _, record in sorted((pair for part in everyone for pair in part.items()), key=lambda p: p[0])]
    chains = Chains(
        kernel=kernel.name(),
        quantities={name: np.stack([r["values"][name] for r in ordered]) for name in quantities},
        statistics={name: np.stack([r["statistics"][name] for r in ordered]) for name in STATISTICS},
        counts=[record["counts"] for record in ordered],
        settings=settings,
    )
    if ranks.is_first:
        warn_of_stuck(chains.statistics["moved"])
    return chains


def _check_arguments(kernel, n_chains: int, n_samples: int, burn_in: int, warm_up: int) -> None:
    for name, value, least in (("n_chains", n_chains, 1), ("n_samples", n_samples, 2), ("burn_in", burn_in, 0)):
        if value < least:
            raise InputError(f"{name}: expected at least {least}, got {value}.")
    if warm_up and not isinstance(kernel, DelayedAcceptance):
        raise InputError(f"warm_up: expected 0 for {type(kernel).__name__}, which has no surrogate, got {warm_up}.")


def _default_quantities(kernel) -> dict[str, Callable]:
    if not isinstance(kernel, LatentKernel):
        raise InputError(
            f"quantities: expected a mapping of names to functions of [u, m], as {type(kernel).__name__} has no "
            "latent coordinates, got None."
        )
    coordinates = kernel.coordinates
    return {"x": lambda state: coordinates.encode(state[hp.PARAMETER])}


def _found(kernel, starts: Starts) -> Found:
    """What must be the same on all ranks."""
    found = dict(describe_posterior(kernel.model))
    if isinstance(kernel, DelayedAcceptance):
        found["weights of the surrogate"] = of_weights(kernel.surrogate.dino.weights)
    order = DofOrder(kernel.model.prior.Vh)
    if isinstance(starts, hp.GaussianLRPosterior):
        found["starts, mean"] = Probe.of(order.to_array(owned_values(starts.mean)))
        found["starts, eigenvalues"] = Probe.of(starts.d)
    elif starts is None or isinstance(starts, str):
        found["starts"] = repr(starts)
    else:
        found["starts"] = Probe.of([order.to_array(owned_values(m)) for m in starts])
    return found


def _restart(kernel, seed: tuple[int, int]) -> None:
    if isinstance(kernel, LatentKernel):
        kernel.restart(seed)


def _run(kernel, m0: dl.GenericVector, quantities: Mapping[str, Callable], n_samples: int, burn_in: int, bar) -> dict:
    """One chain, burn-in traced away so that the bar sees it."""
    chain = hp.MCMC(kernel)
    # print_progress divides the number of samples: any other number fails for short chains
    chain.parameters.update(number_of_samples=burn_in + n_samples, burn_in=0, print_level=0, print_progress=1)
    trace = _Trace(kernel.model, m0, quantities, burn_in, bar)
    chain.run(m0, tracer=trace)
    return {
        "values": {name: np.array(values) for name, values in trace.values.items()},
        "statistics": {name: np.array(values) for name, values in trace.statistics.items()},
        "counts": asdict(kernel.counts) if isinstance(kernel, LatentKernel) else {},
    }

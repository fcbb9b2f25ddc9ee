"""Session fixtures: small models, a small dataset, a small trained DINO; and a way to run under MPI."""

import os
import subprocess
import sys
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
COMPILES = "Calling FFC just-in-time (JIT) compiler"  # what FFC prints when the cache lacks a form


def pytest_configure(config):
    """Workers that run side by side share one compile cache."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        from hippylib_dino.modeling import serialize_compilation

        serialize_compilation()


class OnDemand(Mapping):
    """What is made by name, each when it is first asked for: a test compiles the forms that it needs, no others."""

    def __init__(self, names, make):
        self._names, self._make, self._made = tuple(names), make, {}

    def __getitem__(self, name):
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)


@pytest.fixture(scope="session")
def models():
    """PDE models by name."""
    import hippylib_dino as hd
    from tests import problems

    return OnDemand(problems.MODELS, lambda name: getattr(problems, name)(hd.sample_communicator()))


@pytest.fixture(scope="session")
def confusion_dataset(request, tmp_path_factory):
    import hippylib_dino as hd

    if "TEST_DATASET" in os.environ:  # by tests that start pytest once more, where the same data do
        return hd.Dataset.open(os.environ["TEST_DATASET"])
    models, path = request.getfixturevalue("models"), tmp_path_factory.mktemp("data") / "confusion"
    return hd.generate(
        models["confusion"], path, n_samples=48, n_validation=8, n_test=8, input_rank=24, output_rank=30,
        n_basis_samples=24, store_full=True, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def confusion_dino(confusion_dataset):
    import hippylib_dino as hd

    return hd.train(confusion_dataset, "h1", epochs=250, batch_size=8, hidden=(64, 64), seed=3, progress=False)


@pytest.fixture(scope="session")
def linear_dino(models, tmp_path_factory):
    """A DINO without network error: the exact affine map of the linear problem, in its exact bases."""
    from tests import problems

    return problems.affine_dino(models["linear"], tmp_path_factory.mktemp("data") / "linear")


@pytest.fixture(scope="session")
def control_model():
    import hippylib_dino as hd
    from tests import control_problems

    return control_problems.build("bent", hd.sample_communicator())


@pytest.fixture(scope="session")
def control_dataset(control_model, tmp_path_factory):
    import hippylib_dino as hd

    return hd.generate(
        control_model, tmp_path_factory.mktemp("data") / "control", n_samples=64, n_validation=8, n_test=16,
        n_basis_samples=32, input_rank=10, output_rank=8, output_basis="pod", progress=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def control_dino(control_dataset):
    import hippylib_dino as hd

    return hd.train(control_dataset, "h1", epochs=100, batch_size=8, hidden=(48, 48), seed=1, progress=False)


@pytest.fixture(scope="session")
def surrogates(models, confusion_dino, linear_dino):
    import hippylib_dino as hd

    pairs = {"confusion": confusion_dino, "linear": linear_dino}
    return {
        f"{name} surrogate": hd.SurrogateModel(dino, models[name].prior, models[name].misfit)
        for name, dino in pairs.items()
    }


@pytest.fixture(scope="session")
def maps(models, surrogates):
    """Every parameter-to-observable map; a new one joins all laws by one entry here."""
    return ChainMap(models, surrogates)


@pytest.fixture
def forms_of_tests(monkeypatch):
    """Applications compile their forms as tests do: what one compiled serves the others, and rounds alike."""
    import dolfin as dl

    from applications import compiling

    monkeypatch.setattr(compiling, "FLAGS", dl.parameters["form_compiler"]["cpp_optimize_flags"])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def run_python(tmp_path_factory):
    """Run code in a fresh interpreter, on `ranks` MPI ranks; return what it printed, rank after rank.

    FFC's word that it compiles is left out: whether it says so is a matter of the cache.
    """

    def run(code, *, ranks=1, timeout=900, check=True, **environment):
        command = [sys.executable, "-c", code]
        folder = tmp_path_factory.mktemp("ranks")
        if ranks > 1:  # a file a rank: what ranks print at the same time would otherwise mix within a line
            command = [
                "mpirun", "--oversubscribe", "--output-filename", f"{folder}:nocopy", "-n", str(ranks), *command
            ]  # fmt: skip
        variables = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            **environment,
        }
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=timeout, cwd=ROOT)
        for stream in ("stdout", "stderr"):
            printed = [path.read_text() for path in sorted(folder.glob(f"*/rank.*/{stream}"))]
            lines = "".join([*printed, getattr(done, stream)]).splitlines(keepends=True)
            setattr(done, stream, "".join(line for line in lines if not line.startswith(COMPILES)))
        if check and done.returncode:
            raise AssertionError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return run

"""A partitioned mesh gives what one rank gives: samples, bases, datasets, surrogates."""

import dolfin as dl
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.modeling import DofOrder, set_owned_values
from hippylib_dino.modeling.spaces import owned_values
from tests import problems
from tests.data.test_streams import NAMES, prior_named

# problem: input basis, output basis
DATASETS = {
    "vector": ("derivative", "derivative"),
    "poisson": ("kle", "pod"),
    "mixed": ("derivative", "pod"),
    "state": ("derivative", "pod"),
    "periodic": ("derivative", "pod"),
    "multiplier": ("derivative", "pod"),
}
TOLERANCE = 1e-9
ROUGH = {"periodic": 1e-6}  # a torus has modes whose eigenvalues nearly coincide


def save(comm, path, arrays):
    if comm.rank == 0:
        np.savez(path, **arrays)


def assert_close(found, expected, tolerance):
    """Equal to a tolerance relative to the largest entry."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


# ---- samples and bases -------------------------------------------------------------------


def write_samples_and_modes(comm, path):
    arrays = {}
    for name in NAMES:
        prior, _ = prior_named(name, comm)
        arrays[name] = DofOrder(prior.Vh).to_array(owned_values(hd.data.draw_parameter(prior, 2, 7)))
    # on a square that also its mesh leaves symmetric many modes come in pairs with one eigenvalue
    space = dl.FunctionSpace(dl.UnitSquareMesh(comm, 6, 6, "crossed"), "Lagrange", 1)
    prior = hp.BiLaplacianPrior(space, 0.2, 1.0, robin_bc=True, solver_type="lu")
    basis = hd.reduction.kle_input_basis(prior, rank=10)
    save(comm, path, {**arrays, "eigenvalues": basis.eigenvalues, "modes": basis.decoder})


@pytest.mark.parametrize("name", NAMES)
def test_samples_do_not_depend_on_the_partition(samples_and_modes, name):
    for ranks in (2, 3):
        assert_close(samples_and_modes[ranks][name], samples_and_modes[1][name], 1e-12)


def test_modes_that_share_an_eigenvalue_do_not_depend_on_the_partition(samples_and_modes):
    eigenvalues, modes = samples_and_modes[1]["eigenvalues"], samples_and_modes[1]["modes"]
    assert (np.diff(eigenvalues[:10]) > -1e-10 * eigenvalues[:9]).sum() >= 2  # there are such pairs
    for ranks in (2, 3):
        assert_close(samples_and_modes[ranks]["eigenvalues"][:10], eigenvalues[:10], 1e-12)
        assert_close(samples_and_modes[ranks]["modes"], modes, 1e-9)


# ---- datasets ----------------------------------------------------------------------------


def generate_all(comm, folder):
    for name, (input_basis, output_basis) in DATASETS.items():
        hd.generate(
            getattr(problems, name)(comm), f"{folder}/{name}", n_samples=8, n_validation=1, n_test=2,
            input_rank=6, output_rank=5, input_basis=input_basis, output_basis=output_basis, progress=False,
        )  # fmt: skip


@pytest.mark.parametrize("name", DATASETS)
def test_dataset_does_not_depend_on_the_partition(runs, name):
    one, two, tolerance = *(hd.Dataset.open(runs[ranks] / name) for ranks in (1, 2)), ROUGH.get(name, TOLERANCE)
    assert two.verify() == 11
    for basis in ("input_basis", "output_basis"):
        for part in ("decoder", "encoder", "shift", "eigenvalues"):
            assert_close(getattr(getattr(two, basis), part), getattr(getattr(one, basis), part), tolerance)
    for array in ("x", "y", "reduced_jacobian"):
        assert_close(getattr(two, array), getattr(one, array), tolerance)


@pytest.mark.parametrize("name", [name for name, kinds in DATASETS.items() if kinds[1] == "pod"])
def test_pod_coordinates_are_uncorrelated_on_a_partition(runs, name):
    """Every column is its eigenvector, not only the span of all of them right."""
    dataset = hd.Dataset.open(runs[2] / name)
    covariance = np.cov(dataset.split("train").y, rowvar=False)  # all of these built the basis
    assert_close(covariance, np.diag(dataset.output_basis.eigenvalues[:5]), 1e-10)


# ---- surrogates --------------------------------------------------------------------------


def write_answers(comm, dino_path, path):
    """What the surrogate of `problems.vector` answers, and its MAP in hIPPYlib's own Newton-CG."""
    model = problems.vector(comm)
    problems.observe_truth(model)
    dino = hd.DINO.load(dino_path)
    surrogate = hd.SurrogateModel(dino, model.prior, model.misfit)
    order, m = DofOrder(model.prior.Vh), hd.data.draw_parameter(model.prior, 3, 1)
    latent = dino.input_basis.encode(order.to_array(owned_values(m)))
    decoded = m.copy()
    set_owned_values(decoded, order.from_array(dino.input_basis.decode(latent)))
    x, solver = problems.solve_map(surrogate)
    answers = {
        "latent": latent,
        "decoded": order.to_array(owned_values(decoded)),
        "value of decoded": surrogate.value(decoded),
        "value": surrogate.value(m),
        "jacobian": order.to_array(surrogate.jacobian(m).owned_rows()),
        "map": order.to_array(owned_values(x[hp.PARAMETER])),
        "cost": solver.final_cost,
        "converged": solver.converged,
    }
    save(comm, path, answers)


@pytest.mark.parametrize("quantity", ["latent", "decoded", "value", "jacobian"])
def test_surrogate_answers_do_not_depend_on_the_partition(answers, quantity):
    assert_close(answers[2][quantity], answers[1][quantity], 1e-10)


def test_surrogate_sees_nothing_but_the_latent_parameter(answers):
    assert_close(answers[2]["value of decoded"], answers[2]["value"], 1e-10)


def test_map_of_the_surrogate_does_not_depend_on_the_partition(answers):
    assert answers[1]["converged"]
    assert answers[2]["converged"]
    assert_close(answers[2]["map"], answers[1]["map"], 1e-6)
    assert_close(answers[2]["cost"], answers[1]["cost"], 1e-9)


# ---- runs --------------------------------------------------------------------------------

SCRIPT = """
import hippylib_dino as hd
from tests import test_partitioned
comm = hd.sample_communicator(None)
test_partitioned.write_samples_and_modes(comm, {folder!r} + "/samples.npz")
if {everything}:
    test_partitioned.generate_all(comm, {folder!r})
    test_partitioned.write_answers(comm, {dino!r}, {folder!r} + "/answers.npz")
"""


@pytest.fixture(scope="module")
def runs(run_python, tmp_path_factory):
    """What the functions above wrote, in a directory for each number of ranks; on 3 ranks only the samples."""
    folders = {ranks: tmp_path_factory.mktemp(f"ranks{ranks}") for ranks in (1, 2, 3)}
    comm, dino = hd.sample_communicator(), str(folders[1] / "vector.dino")
    write_samples_and_modes(comm, folders[1] / "samples.npz")
    generate_all(comm, folders[1])
    dataset = hd.Dataset.open(folders[1] / "vector")
    hd.train(dataset, epochs=20, batch_size=4, hidden=(8,), progress=False).save(dino)
    write_answers(comm, dino, folders[1] / "answers.npz")
    for ranks in (2, 3):
        code = SCRIPT.format(folder=str(folders[ranks]), dino=dino, everything=ranks == 2)
        run_python(code, ranks=ranks, OMP_NUM_THREADS="1")
    return folders


@pytest.fixture(scope="module")
def samples_and_modes(runs):
    return {ranks: np.load(folder / "samples.npz") for ranks, folder in runs.items()}


@pytest.fixture(scope="module")
def answers(runs):
    return {ranks: np.load(runs[ranks] / "answers.npz") for ranks in (1, 2)}

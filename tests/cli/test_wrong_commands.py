"""Wrong commands: each ends with a code that means it and one message that names what is wrong; nothing is written."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

import hippylib_dino as hd
from hippylib_dino.cli.entry import run
from hippylib_dino.network import ReducedDense

FROM_TESTS = "from tests import control_problems, problems\nimport hippylib_dino as hd\n"
MODULES = {
    "linear": FROM_TESTS + "def build(comm, mesh_size=8): return problems.linear(comm)",
    "heat": FROM_TESTS + "def build(comm, mesh_size=8): return problems.heat(comm)",
    "state": FROM_TESTS + "def build(comm, mesh_size=8): return problems.state(comm)",
    "control": FROM_TESTS
    + "def build(comm, mesh_size=8): return control_problems.build('bent', comm)\n"
    + "def quantity(model): return hd.ouu.tracking(model.problem.Vh, control_problems.target())",
    "other_control": FROM_TESTS
    + "def build(comm, mesh_size=8): return control_problems.build('bent', comm, n=5)\n"
    + "def quantity(model): raise AssertionError('it is asked for too late')",
    "no_law": FROM_TESTS
    + "def build(comm): return hd.JacobianModel.from_model(control_problems.build('bent', comm))\n"
    + "quantity = hd.ouu.tracking",
    "no_form": FROM_TESTS
    + "def build(comm): return control_problems.build('bent', comm)\ndef quantity(model): return 3",
    "number": "build = quantity = 3",
    "no_quantity": "def build(comm): raise AssertionError('it is built too early')",
    "no_size": "def build(comm): raise AssertionError('it is built too early')",
    "must_have_size": "def build(comm, mesh_size): raise AssertionError('it is built too early')",
    "wants_more": "def build(comm, viscosity): raise AssertionError('it is built too early')",
    "no_model": "def build(comm): return 3",
    "no_syntax": "def build(comm: return 3",
    "raises": "def scale(x):\n    return 1 / x\n\nscale(0)  # my own line",
    "raises_later": "def build(comm):\n    return {}['viscosity']  # my own line",
    "raises_ours": "import hippylib_dino as hd\ndef build(comm):\n"
    + "    return hd.JacobianModel(3, None, None)  # my own line",
    "ends": "import sys\nsys.exit(0)  # my own line",
    "needs": "import no_such_package_at_all  # my own line",
}

SHELL = "import os, sys; os.chdir({!r}); sys.argv[1:] = {!r}; from hippylib_dino.cli import main; main()"


@pytest.fixture(scope="module")
def world(models, control_model, tmp_path_factory):
    """A folder with modules, datasets and DINOs, good ones and others."""
    root = tmp_path_factory.mktemp("world")
    for name, text in MODULES.items():
        (root / f"my_{name}.py").write_text(text + "\n")
    few = {"n_samples": 4, "n_validation": 1, "n_test": 1, "progress": False}
    data = hd.generate(models["linear"], root / "data", input_rank=9, output_rank=9, **few)
    identity = {"input_basis": "kle", "output_basis": "identity", "input_rank": 9}
    kle = hd.generate(models["linear"], root / "kle", **identity, **few)
    heat = hd.generate(models["heat"], root / "heat", input_rank=4, **few)
    state = hd.generate(models["state"], root / "state", output_basis="pod", input_rank=4, **few)
    control = hd.generate(control_model, root / "control", output_basis="pod", input_rank=4, **few)
    untested = hd.generate(models["linear"], root / "untested", input_rank=9, output_rank=9, **{**few, "n_test": 0})
    assert untested.plan.n_test == 0
    for name, dataset in {"a": data, "kle": kle, "heat": heat, "state": state, "control": control}.items():
        _untrained(dataset).save(root / f"{name}.dino")
    _untrained(kle, forward={"observable at the prior mean": [1.0]}).save(root / "elsewhere.dino")
    (root / "broken.dino").write_bytes((root / "a.dino").read_bytes()[:2000])
    shutil.copytree(root / "data", root / "broken")
    (root / "broken" / "zarr.json").write_text("{")
    shutil.copytree(root / "data", root / "flipped")
    chunk = next(
        path for path in sorted((root / "flipped" / "y").rglob("*")) if "c" in path.parent.parts and path.is_file()
    )
    chunk.write_bytes(bytes([chunk.read_bytes()[0] ^ 255]) + chunk.read_bytes()[1:])
    (root / "mine").mkdir()
    os.mkfifo(root / "pipe")
    for name in ("mine/notes.txt", "file.txt", "there.xdmf", "half.h5", "there.npz", "there.png"):
        (root / name).write_text("mine")
    return root


def _untrained(dataset, forward=None):
    """The linear map that a sample's value and Jacobian make."""
    network, sample = (
        ReducedDense(dataset.input_basis.rank, dataset.output_basis.rank, hidden=()),
        dataset.split("train"),
    )
    J = sample.reduced_jacobian[0]
    mark = dataset.fingerprint if forward is None else {**dataset.fingerprint, "forward map": forward}
    weights = [J.T, sample.y[0] - J @ sample.x[0]]
    return hd.DINO(network, weights, dataset.input_basis, dataset.output_basis, mark)


@pytest.fixture
def at(world, monkeypatch):
    monkeypatch.chdir(world)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "200")
    return world


# each with its good arguments; a wrong one takes the place of one of them, or is added
GOOD = {
    "generate": "generate my_linear new --n-samples 4",
    "train": "train data new.dino --epochs 1",
    "evaluate": "evaluate a.dino data",
    "report": "report a.dino data new",
    "map": "map my_linear a.dino --output new.xdmf",
    "ouu": "ouu my_control control.dino --output new.npz --n-samples 4",
    "oed": "oed a.dino data --n-sensors 2 --n-draws 2 --n-random 2",
    "info": "info data",
    "verify": "verify data",
}
NUMBERS = [  # options and values, the message
    ("generate", "--seed -1"), ("generate", "--seed 0.5"), ("generate", "--n-samples 0"), ("generate", "--n-samples x"),
    ("generate", "--n-validation -1"), ("generate", "--n-test -1"), ("generate", "--n-basis-samples 0"),
    ("generate", "--mesh-size 0"), ("generate", "--mesh-size -8"), ("generate", "--mesh-size big"),
    ("generate", "--ranks-per-sample 0"), ("generate", "--max-failures -1"), ("generate", "--n-basis-samples 5"),
    ("generate", "--ranks-per-sample 3"),
    ("generate", "--input-rank 0"), ("generate", "--input-rank -3"), ("generate", "--input-rank nan"),
    ("generate", "--input-rank inf"), ("generate", "--input-rank 1.5"), ("generate", "--output-rank many"),
    ("generate", "--control-rank 0"), ("generate", "--control-rank 2"), ("generate", "--output-rank 10"),
    ("generate", "--input-rank 1000"),
    ("generate", "--input-basis fourier"), ("generate", "--output-basis fourier"),
    ("generate", "--initial-guess none"), ("generate", "--initial-guess nearest"), ("generate", "--retry again"),
    ("generate", "--retry continuation"), ("generate", "--repair"),
    ("train", "--seed -1"), ("train", "--seed x"), ("train", "--epochs 0"), ("train", "--epochs -1"),
    ("train", "--batch-size 0"), ("train", "--n-train 1"), ("train", "--n-train 5"), ("train", "--n-validation 0"),
    ("train", "--n-validation 2"), ("train", "--patience 0"), ("train", "--learning-rate 0"),
    ("train", "--learning-rate -1"), ("train", "--learning-rate nan"), ("train", "--learning-rate inf"),
    ("train", "--learning-rate fast"), ("train", "--hidden 8,x"), ("train", "--hidden 8,,8"), ("train", "--hidden 0"),
    ("train", "--hidden -8"), ("train", "--hidden 8.5"), ("train", "--activation relu"), ("train", "--optimizer sgd"),
    ("train", "--precision float64"), ("train", "--formulation h2"), ("train", "--input-rank 10"),
    ("train", "--output-rank 0"), ("train", "--output-rank nan"), ("train", "--output-rank many"),
    ("train", "--balance --formulation l2"),
    ("evaluate", "--part all"), ("report", "--part all"),
    ("map", "--truth-seed -1"), ("map", "--truth-seed x"), ("map", "--mesh-size 0"),
    ("ouu", "--seed -1"), ("ouu", "--n-samples 0"), ("ouu", "--n-pde -1"), ("ouu", "--n-pde 1"),
    ("ouu", "--mesh-size 0"),
    ("ouu", "--penalty nan"), ("ouu", "--penalty inf"), ("ouu", "--penalty -1"), ("ouu", "--penalty x"),
    ("ouu", "--risk median"), ("ouu", "--risk cvar:1.5"), ("ouu", "--risk cvar:nan"), ("ouu", "--risk cvar:x"),
    ("ouu", "--risk mean-variance:-1"), ("ouu", "--risk mean-variance:nan"), ("ouu", "--risk mean-variance:inf"),
    ("ouu", "--risk entropic:0"), ("ouu", "--risk entropic:inf"), ("ouu", "--risk worst-case:0"),
    ("ouu", "--risk expectation:1"), ("ouu", "--risk ''"),
    ("oed", "--seed -1"), ("oed", "--n-sensors 0"), ("oed", "--n-sensors 10"), ("oed", "--n-draws 1"),
    ("oed", "--n-random 0"), ("oed", "--n-sensors two"),
]  # fmt: skip
PLACES = {  # of what is read: what comes in its place
    "evaluate a.dino {}": ("DATASET", "none", "file.txt", "mine", "broken", "file.txt/data", "a.dino", "x" * 300),
    "evaluate {} data": ("MODEL_FILE", "none", "file.txt", "mine", "broken.dino", "file.txt/a.dino", "data", "x" * 300),
    "report a.dino {} new": ("DATASET", "none", "broken", "a.dino"),
    "report {} data new": ("MODEL_FILE", "none", "broken.dino", "data"),
    "train {} new.dino": ("DATASET", "none", "file.txt", "mine", "broken", "file.txt/data", "a.dino", "x" * 300),
    "oed a.dino {}": ("DATASET", "none", "broken", "a.dino"),
    "oed {} data": ("MODEL_FILE", "none", "broken.dino", "data"),
    "map my_linear {} --output new.xdmf": ("MODEL_FILE", "none", "broken.dino", "data", "x" * 300),
    "ouu my_control {} --output new.npz": ("MODEL_FILE", "none", "broken.dino", "data"),
    "verify {}": ("DATASET", "none", "file.txt", "mine", "x" * 300),
    "info {}": ("path", "none", "file.txt", "mine", "broken", "broken.dino", "x" * 300),
    "generate my_linear new --reuse {}": ("--reuse", "none", "file.txt", "mine", "broken", "data"),
    # of what is written
    "generate my_no_quantity {} --n-samples 4": (
        "DATASET", "data", "mine", "file.txt", "file.txt/new", "/proc/new", "x" * 300
    ),
    "generate my_linear {} --n-samples 4 --resume": ("DATASET", "mine", "file.txt", "broken", "heat"),
    "train data {}": ("OUTPUT", "a.dino", "mine", "file.txt/new", "none/new.dino", "/proc/new.dino", "x" * 300),
    "train data {} --overwrite": ("OUTPUT", "mine", "data", "pipe", "file.txt/new"),
    "train data new.dino --log {}": (
        "--log", "data", "file.txt", "file.txt/new", "/proc/new", "new.dino", "new.dino/log"
    ),
    "train data new.dino --report {}": (
        "--report", "file.txt", "mine", "data", "file.txt/new", "/proc/new", "new.dino", "new.dino/report"
    ),
    "train data new.dino --report {} --overwrite": ("--report", "data", "file.txt", "file.txt/new", "/proc/new"),
    "report a.dino data {}": ("FOLDER", "file.txt", "mine", "file.txt/new", "/proc/new"),
    "map my_no_quantity a.dino --output {}": (
        "--output", "there.xdmf", "half.xdmf", "new.png", "none/new.xdmf", "file.txt/new.xdmf", "/proc/new.xdmf"
    ),
    "ouu my_control control.dino --output {}": (
        "--output", "there.npz", "new", "none/new.npz", "file.txt/new.npz", "/proc/new.npz"
    ),
    "info data --figure {}": (
        "--figure", "there.png", "new.doc", "new", "none/new.png", "file.txt/new.png", "/proc/new.png"
    ),
}  # fmt: skip
OTHERS = [  # command, what its message says
    ("", "Usage"),
    ("nosuch", "No such command 'nosuch'"),
    ("train", "Missing argument 'DATASET'"),
    ("evaluate a.dino", "Missing argument 'DATASET'"),
    ("evaluate a.dino data more", "unexpected extra argument"),
    ("train data new.dino --width 3", "No such option"),
    ("info a.dino --figure new.png", "--figure: draws a dataset"),
    ("train untested new.dino --report new", "--report: the dataset has no test samples"),
    ("train untested new.dino --epochs 1 --input-rank 9 --n-train 9", "--n-train: expected at most 4"),
    ("evaluate a.dino untested", "test"),
    # of another problem
    ("evaluate a.dino kle", "DATASET: its input basis is not the one"),
    ("evaluate heat.dino data", "DATASET: "),
    ("evaluate elsewhere.dino kle", "MODEL_FILE: it was made for another forward map"),
    ("report elsewhere.dino kle new", "MODEL_FILE: it was made for another forward map"),
    ("oed a.dino kle", "DATASET: its input basis is not the one"),
    ("oed elsewhere.dino kle", "MODEL_FILE: it was made for another forward map"),
    ("oed heat.dino data", "DATASET: "),
    ("oed state.dino state", "MODEL_FILE: gives whole states"),
    ("oed control.dino control", "MODEL_FILE: was trained with a control"),
    ("map my_heat a.dino --output new.xdmf", "MODEL_FILE: it was made for another"),
    ("map my_linear state.dino --output new.xdmf", "MODEL_FILE: it was made for another"),
    ("map my_state a.dino --output new.xdmf", "whole states"),
    ("map my_control control.dino --output new.xdmf", "MODEL_FILE: .* with a control"),
    ("ouu my_control a.dino --output new.npz", "MODEL_FILE: .* without a control"),
    ("ouu my_other_control control.dino --output new.npz", "MODEL_FILE: it was made for another"),
    ("ouu my_no_law control.dino --output new.npz", "APPLICATION: the model of 'my_no_law' draws no controls"),
    # modules
    ("generate no.such.module new", "APPLICATION: cannot import 'no.such.module'"),
    ("generate my_linear.build new", "APPLICATION: cannot import 'my_linear.build'"),
    ("generate my_linear.py new", "pass 'my_linear'"),
    ("generate ./my_linear.py new", "pass 'my_linear'"),
    ("generate applications/heat new", "pass 'applications.heat'"),
    ("generate '' new", "APPLICATION: expected the name of a module"),
    ("generate ..my_linear new", "APPLICATION: expected the name of a module"),
    ("generate 'my linear' new", "APPLICATION: expected the name of a module"),
    ("generate json new", "'build' is missing"),
    ("generate my_number new", "'build' is no function"),
    ("generate my_no_size new --mesh-size 8", "Leave --mesh-size away"),
    ("generate my_must_have_size new", "Pass --mesh-size"),
    ("generate my_wants_more new", "'viscosity'"),
    ("generate my_no_model new", "expected build of 'my_no_model' to return an hd.JacobianModel, got int"),
    ("map json a.dino --output new.xdmf", "'build' is missing"),
    ("map my_number a.dino --output new.xdmf", "'build' is no function"),
    ("map my_no_size a.dino --output new.xdmf --mesh-size 8", "Leave --mesh-size away"),
    ("map my_no_model a.dino --output new.xdmf", "expected build of 'my_no_model'"),
    ("ouu my_no_quantity control.dino --output new.npz", "'quantity' is missing"),
    ("ouu my_number control.dino --output new.npz", "'build' is no function"),
    ("ouu my_no_form control.dino --output new.npz", "expected quantity of 'my_no_form' to return"),
]
REMEDIES = (
    "expected|should be|--help|not one of|run from|(?i:pass|choose|make it|take|rebuild|restore|remove|leave|use|"
    "generate|train|give|define) "
)
CASES = [
    *((f"{GOOD[command]} {option}", re.escape(option.split()[0])) for command, option in NUMBERS),
    *((command.format(place), rf"{label}\b") for command, (label, *places) in PLACES.items() for place in places),
    *OTHERS,
]


def _listing(root):
    paths = [path for path in root.rglob("*") if "__pycache__" not in path.parts]
    return {(path, path.stat().st_mtime_ns if path.is_file() else None) for path in paths}


@pytest.mark.parametrize(("command", "message"), CASES, ids=[command[:60] for command, _ in CASES])
def test_wrong_use_is_told_before_anything_is_done(at, capsys, command, message):
    before = _listing(at)
    assert run(shlex.split(command)) == 2
    told = capsys.readouterr()
    assert "Traceback" not in told.err + told.out
    assert re.search(message, told.err)
    assert re.search(REMEDIES, told.err)
    assert _listing(at) == before


@pytest.mark.parametrize(
    ("module", "shown"),
    [
        ("raises", ["my_raises.py", "return 1 / x", "scale(0)  # my own line", "ZeroDivisionError: division by zero"]),
        ("raises_later", ["my_raises_later.py", "in build", "KeyError: 'viscosity'"]),
        ("no_syntax", ["my_no_syntax.py", "def build(comm: return 3", "SyntaxError"]),
        ("ends", ["my_ends.py", "sys.exit(0)  # my own line", "__main__"]),
        ("needs", ["my_needs.py", "# my own line", "no_such_package_at_all"]),
    ],
)
@pytest.mark.parametrize(
    "command", ["generate my_{} new", "map my_{} a.dino --output new.xdmf", "ouu my_{} control.dino --output new.npz"]
)
def test_an_exception_of_the_users_own_is_shown_with_his_lines(at, capsys, command, module, shown):
    quantity = "def quantity(model): raise AssertionError\n"
    file = at / f"my_{module}.py"
    text = file.read_text()
    if command.startswith("ouu") and module == "raises_later":
        file.write_text(text + quantity)
    sys.modules.pop(f"my_{module}", None)
    before = _listing(at)
    assert run(shlex.split(command.format(module))) == 1
    file.write_text(text)
    told = capsys.readouterr().err
    assert all(line in told for line in shown)
    assert "hippylib_dino/" not in told  # his lines, not ours
    assert {path for path, _ in _listing(at)} == {path for path, _ in before}


def test_an_exception_of_a_handler_is_shown_with_its_lines(at, capsys):
    """Which the package calls, far below its own lines."""
    (at / "my_handler.py").write_text(
        "from tests import problems\n"
        "def quiet(*arguments): raise LookupError('mine')  # my own line\n"
        "def build(comm):\n    model = problems.linear(comm)\n    model.evalObservable = quiet\n    return model\n"
    )
    assert run(shlex.split("generate my_handler handled --n-samples 4")) == 1
    told = capsys.readouterr().err
    assert "raise LookupError('mine')  # my own line" in told
    assert "LookupError: mine" in told
    assert "hippylib_dino/" not in told
    shutil.rmtree(at / "handled", ignore_errors=True)


def test_an_exception_on_one_rank_ends_all(at, run_python):
    (at / "my_second_rank.py").write_text(
        "from mpi4py import MPI\ndef build(comm):\n    if MPI.COMM_WORLD.rank == 1: raise LookupError('mine')\n"
    )
    arguments = ["generate", "my_second_rank", "new"]
    done = run_python(SHELL.format(str(at), arguments), ranks=2, check=False, timeout=120)
    assert done.returncode == 1
    assert "LookupError: mine" in done.stderr
    assert not (at / "new").exists()


def test_an_error_of_the_package_tells_where_in_the_users_module_it_came_from(at, capsys):
    assert run(shlex.split("generate my_raises_ours new")) == 2
    told = capsys.readouterr().err
    assert "InputError: problem: expected an hp.PDEVariationalProblem" in told
    assert "return hd.JacobianModel(3, None, None)  # my own line" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("command", ["generate", "map", "ouu"])
@pytest.mark.parametrize("library", ["dolfin", "hippylib"])
def test_missing_libraries_are_named(at, capsys, monkeypatch, command, library):
    monkeypatch.setitem(sys.modules, library, None)
    assert run(shlex.split(GOOD[command])) == 2
    told = capsys.readouterr().err
    assert re.search(rf"LibraryError: {library}: cannot be imported .* needs FEniCS 2019 and hIPPYlib", told)
    assert "Traceback" not in told


def test_damage_is_a_verdict(at, capsys):
    assert run(["verify", "data"]) == 0
    assert run(["verify", "flipped"]) == 1
    assert "damaged" in capsys.readouterr().err
    assert run(["verify", "broken"]) == 1
    assert run(["evaluate", "a.dino", "flipped", "--part", "train"]) == 2


def test_what_is_there_is_replaced_where_that_is_said(at, capsys):
    for command in (
        "map my_linear a.dino --output kept.xdmf", "info data --figure kept.png", "report a.dino data kept",
        "train data kept.dino --epochs 1 --hidden 4 --report trained --log trained/log",
    ):  # fmt: skip
        assert run(shlex.split(command)) == 0, capsys.readouterr().err
        assert run(shlex.split(command)) == 2
        assert "pass --overwrite" in capsys.readouterr().err
        assert run(shlex.split(f"{command} --overwrite")) == 0


def test_a_dino_that_cannot_be_saved_after_all_is_kept(at, capsys, monkeypatch):
    """The disk is full, or the folder gone, by the end of the training."""
    save = hd.DINO.save

    def full(dino, path, overwrite=False):
        if Path(path).name == "new.dino":
            raise OSError(28, "No space left on device")
        save(dino, path, overwrite)

    monkeypatch.setattr(hd.DINO, "save", full)
    monkeypatch.setattr("tempfile.tempdir", str(at))
    assert run(shlex.split("train data new.dino --epochs 1 --hidden 4")) == 1
    told = capsys.readouterr().err
    kept = re.search(r"The DINO is in '(.*)'", told)[1]
    assert hd.DINO.load(kept).training["epochs"] == 1
    assert "Traceback" not in told
    shutil.rmtree(Path(kept).parent)


@pytest.mark.parametrize("name", ["heat", "state"])
def test_map_over_time_and_of_whole_states(at, capsys, name):
    assert run(shlex.split(f"map my_{name} {name}.dino --output {name}.xdmf")) == 0
    assert re.search(r"converged +│ True", capsys.readouterr().out)
    assert (at / f"{name}.xdmf").exists()


def test_failures_of_the_work_are_code_1(at, capsys, monkeypatch):
    """Of the package, and of what it calls, with one message."""
    from hippylib_dino.errors import SolveError

    for error, told in (
        (SolveError("it did"), "SolveError: it did"),
        (OSError(28, "No space"), "OSError: "),
        (MemoryError("much"), "MemoryError: much"),
        (ValueError("odd"), "was not foreseen"),
    ):
        monkeypatch.setattr(hd.DINO, "sample_errors", Mock(side_effect=error))
        assert run(["evaluate", "a.dino", "data"]) == 1
        heard = capsys.readouterr().err
        assert told in heard
        assert "Traceback" not in heard


def test_choices_are_those_of_the_package():
    """What the help lists is what there is."""
    from typer.main import get_command

    from hippylib_dino.cli import app
    from hippylib_dino.data.guessing import GUESSES
    from hippylib_dino.data.plan import INPUT_BASES, OUTPUT_BASES
    from hippylib_dino.network.activations import _ACTIVATIONS
    from hippylib_dino.network.formulations import FORMULATIONS
    from hippylib_dino.network.optimizers import PEAKS
    from hippylib_dino.network.training import PRECISIONS

    expected = {
        "input_basis": INPUT_BASES, "output_basis": OUTPUT_BASES, "initial_guess": ("auto", *GUESSES),
        "activation": _ACTIVATIONS, "formulation": FORMULATIONS, "optimizer": PEAKS, "precision": PRECISIONS,
    }  # fmt: skip
    commands = get_command(app).commands
    listed = {p.name: p.help for name in ("generate", "train") for p in commands[name].params}
    for option, names in expected.items():
        assert set(re.split(r", | or ", listed[option].rstrip("."))) == set(names), option


def test_the_shell_sees_the_code_and_the_lines(at, run_python):
    done = run_python(SHELL.format(str(at), ["generate", "my_raises", "new"]), check=False)
    assert done.returncode == 1
    assert "scale(0)  # my own line" in done.stderr
    done = run_python(SHELL.format(str(at), ["train", "data", "none/new.dino"]), check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("hippylib-dino: InputError: OUTPUT: the folder of 'none/new.dino' is not there")
    done = run_python(
        "import sys; sys.modules['tensorflow'] = None\n" + SHELL.format(str(at), GOOD["train"].split()), check=False
    )
    assert done.returncode == 2
    assert "LibraryError: keras: cannot be imported, 'tensorflow" in done.stderr
    done = run_python(SHELL.format(str(at), GOOD["train"].split()), check=False, KERAS_BACKEND="unheard_of")
    assert done.returncode == 2
    assert "LibraryError: keras: cannot be imported (Unable to import backend : unheard_of)" in done.stderr
    done = run_python(
        "import sys; sys.modules['dolfin'] = None\n" + SHELL.format(str(at), GOOD["oed"].split()), check=False
    )
    assert done.returncode == 0, done.stderr  # which needs no FEniCS

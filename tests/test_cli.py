import re

import dolfin  # noqa: F401  before a runner's stdout is there, which UFL's logger would keep
import numpy as np
import pytest
from typer.testing import CliRunner

import hippylib_dino as hd
from hippylib_dino import cli
from hippylib_dino.errors import InputError

run = CliRunner()
GENERATE = (
    "generate applications.poisson {} --mesh-size 8 --n-samples 4 --n-validation 1 --n-test 2"
    " --input-rank 6 --output-rank 6"
)


def test_whole_path_by_command_line(tmp_path):
    data, model = tmp_path / "data", tmp_path / "a.dino"
    steps = (
        (GENERATE.format(data), "7 of 7 samples done"),
        (f"train {data} {model} --epochs 2 --report {tmp_path / 'trained'}", "DINO(81 -> 6"),
        (f"evaluate {model} {data}", "95 % intervals"),
        (f"report {model} {data} {tmp_path / 'report'} --part validation", "report.html"),
        (f"map applications.poisson {model} --mesh-size 8 --output {tmp_path / 'map.xdmf'}", "Newton iterations"),
        (f"oed {model} {data} --n-sensors 2 --n-draws 4 --n-random 5", "2 of 25 observables"),
        (f"oed {model} {data} --n-sensors 2 --n-draws 4 --n-random 5 --linearized", "0 of 0"),
        (f"info {data} --figure {tmp_path / 'data.png'}", "none of 7 failed"),
        (f"verify {data}", "7 good samples"),
        (f"info {model}", "formulation"),
    )
    for command, expected in steps:
        result = run.invoke(cli.app, command.split(), catch_exceptions=False)
        assert result.exit_code == 0
        assert expected in result.output
    assert (tmp_path / "map.xdmf").exists()
    assert (tmp_path / "data.png").stat().st_size > 10_000
    assert "2 test samples" in (tmp_path / "trained" / "report.md").read_text()
    assert "1 validation samples" in (tmp_path / "report" / "report.md").read_text()
    with pytest.raises(InputError, match="pass --overwrite to replace it"):
        run.invoke(cli.app, f"train {data} {model}".split(), catch_exceptions=False)


def test_same_numbers_as_the_python_call(tmp_path):
    from applications.poisson import build

    run.invoke(cli.app, GENERATE.format(tmp_path / "a").split(), catch_exceptions=False)
    model = build(hd.sample_communicator(), mesh_size=8)
    b = hd.generate(
        model, tmp_path / "b", n_samples=4, n_validation=1, n_test=2, input_rank=6, output_rank=6, progress=False
    )
    np.testing.assert_array_equal(hd.Dataset.open(tmp_path / "a").reduced_jacobian, b.reduced_jacobian)


def test_options_of_the_training_arrive(confusion_dataset, tmp_path):
    """Ranks too: whoever evaluates need not tell them."""
    model, log = tmp_path / "a.dino", tmp_path / "log"
    command = (
        f"train {confusion_dataset.path} {model} --formulation h1_truncated --n-train 16 --n-validation 4"
        f" --input-rank 22 --output-rank 0.9999 --hidden 8,4 --activation tanh --epochs 3 --batch-size 4"
        f" --optimizer adam --learning-rate 0.003 --balance --patience 2 --seed 5 --stream --log {log}"
    )
    result = run.invoke(cli.app, command.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    dino = hd.DINO.load(model)
    cut = confusion_dataset.truncate(22, 0.9999)
    assert (dino.input_basis.rank, dino.output_basis.rank) == (22, cut.output_basis.rank)
    assert (dino.architecture.hidden, dino.architecture.activation) == ((8, 4), "tanh")
    expected = {
        "formulation": "h1_truncated", "n_train": 16, "n_validation": 4, "epochs": 3, "batch_size": 4,
        "optimizer": "adam", "learning_rate": 0.003, "balance": True, "seed": 5,
    }  # fmt: skip
    assert {key: dino.training[key] for key in expected} == expected
    assert (log / "history.csv").exists()
    result = run.invoke(cli.app, f"evaluate {model} {confusion_dataset.path}".split(), catch_exceptions=False)
    shown = re.search(r"reduced_jacobian +│ (\S+)%  \((\S+)% .. (\S+)%\)", result.output).groups()
    value, low, high = (float(number) / 100 for number in shown)
    assert value == pytest.approx(dino.evaluate(cut)["reduced_jacobian"], abs=1e-5)
    assert low < value < high


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--hidden 8,x", "hidden: expected widths with commas between, such as 192,192, got '8,x'"),
        ("--input-rank 25", r"input_rank: expected 1 \.\. 24"),
        ("--output-rank many", "output_rank: expected a rank, an int"),
        ("--formulation h2", "formulation: expected one of"),
        ("--report {full}", r"folder: .* is not empty; pass overwrite=True"),
    ],
)
def test_bad_options_of_the_training_are_named(confusion_dataset, tmp_path, options, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    command = f"train {confusion_dataset.path} {tmp_path / 'a.dino'} {options.format(full=tmp_path / 'full')}"
    with pytest.raises(InputError, match=message):
        run.invoke(cli.app, command.split(), catch_exceptions=False)
    assert not (tmp_path / "a.dino").exists()


@pytest.mark.parametrize(
    ("application", "message"),
    [("no.such.module", "APPLICATION: cannot import 'no.such.module'"), ("json", "has no function build")],
)
def test_bad_application_is_named(tmp_path, application, message):
    with pytest.raises(InputError, match=message):
        run.invoke(cli.app, ["generate", application, str(tmp_path / "d")], catch_exceptions=False)


def test_errors_of_the_package_are_one_line(run_python, tmp_path):
    code = f"import sys; sys.argv = ['', 'info', {str(tmp_path)!r}]; from hippylib_dino.cli import main; main()"
    done = run_python(code, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("hippylib-dino: DatasetError: path:")
    assert "Traceback" not in done.stderr


def test_optimal_control_by_command_line(tmp_path):
    data, model, control = tmp_path / "data", tmp_path / "a.dino", tmp_path / "z.npz"
    application = "applications.semilinear_control"
    steps = (
        (
            f"generate {application} {data} --mesh-size 8 --n-samples 16 --n-validation 2 --n-test 2"
            " --n-basis-samples 16 --input-rank 4 --output-rank 8 --output-basis pod",
            "20 of 20 samples done",
        ),
        (f"train {data} {model} --epochs 2 --hidden 16", "DINO("),
        (f"evaluate {model} {data}", "control_jacobian"),
        (
            f"ouu {application} {model} --output {control} --risk cvar:0.8 --penalty 1e-3 --n-samples 16 --n-pde 4"
            " --mesh-size 8",
            "4 PDE samples, 80 of the surrogate",
        ),
    )
    for command, expected in steps:
        result = run.invoke(cli.app, command.split(), catch_exceptions=False)
        assert result.exit_code == 0
        assert expected in result.output
    z = np.load(control)["z"]
    assert z.shape == (49,)
    assert np.abs(z).max() <= 4
    for command, message in (
        (f"ouu {application} {model} --risk median", "risk: expected one of"),
        (f"ouu {application} {model} --risk cvar:1.5", "beta: expected a level"),
        (f"ouu {application} {model} --risk cvar:x", "expected a number after the colon"),
        (f"ouu applications.poisson {model}", r"no function quantity\(model\)"),
    ):
        with pytest.raises(InputError, match=message):
            run.invoke(cli.app, command.split(), catch_exceptions=False)


def test_optimal_control_needs_a_control(linear_dino, tmp_path):
    linear_dino.save(tmp_path / "a.dino")
    with pytest.raises(InputError, match="without a control"):
        run.invoke(
            cli.app, f"ouu applications.semilinear_control {tmp_path / 'a.dino'}".split(), catch_exceptions=False
        )


def test_ranks_may_be_left_to_the_problem(tmp_path):
    """25 sensors, 81 parameters: fewer than the default ranks."""
    command = f"generate applications.poisson {tmp_path / 'd'} --mesh-size 8 --n-samples 4 --n-validation 1 --n-test 1"
    result = run.invoke(cli.app, command.split(), catch_exceptions=False)
    assert result.exit_code == 0
    dataset = hd.Dataset.open(tmp_path / "d")
    assert dataset.output_basis.rank == 25
    assert 6 < dataset.input_basis.rank <= 81
    with pytest.raises(hd.errors.RankError, match="output_rank: expected at most 25"):
        run.invoke(cli.app, f"{command} --output-rank 26".replace("/d ", "/e ").split(), catch_exceptions=False)

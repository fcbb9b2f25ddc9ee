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
        (f"train {data} {model} --epochs 2", "DINO(81 -> 6"),
        (f"evaluate {model} {data}", "jacobian"),
        (f"map applications.poisson {model} --mesh-size 8 --output {tmp_path / 'map.xdmf'}", "Newton iterations"),
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

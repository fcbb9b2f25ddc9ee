"""Importing the package is free; both import orders work; a clashing h5py is named."""

FREE = """
import os, sys
import random
before_environment, before_random = dict(os.environ), random.getstate()
import contextlib, io
heard = io.StringIO()
with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
    import hippylib_dino
libraries = ("dolfin", "hippylib", "keras", "tensorflow", "numpy", "mpi4py", "zarr", "matplotlib")
heavy = [name for name in libraries if name in sys.modules]
assert not heavy, heavy
assert dict(os.environ) == before_environment
assert random.getstate() == before_random
assert heard.getvalue() == ""
assert "JacobianModel" in dir(hippylib_dino)
"""


def test_import_is_free(run_python):
    assert run_python(FREE).stdout == ""


def test_unknown_name_is_an_attribute_error():
    import pytest

    import hippylib_dino

    with pytest.raises(AttributeError, match="has no attribute 'Datset'"):
        hippylib_dino.Datset  # noqa: B018


def test_every_public_name_resolves():
    import hippylib_dino

    for name in hippylib_dino.__all__:
        assert getattr(hippylib_dino, name) is not None


def test_training_side_never_imports_dolfin(run_python, confusion_dataset, confusion_dino, tmp_path):
    confusion_dino.save(tmp_path / "a.dino")
    code = f"""
import sys
import hippylib_dino as hd
dataset = hd.Dataset.open({str(confusion_dataset.path)!r})
loaded = hd.DINO.load({str(tmp_path / "a.dino")!r})
loaded.evaluate(dataset)
assert "keras" not in sys.modules and "tensorflow" not in sys.modules
hd.train(dataset, "l2", epochs=1, hidden=(4,), progress=False)
assert "dolfin" not in sys.modules and "hippylib" not in sys.modules and "petsc4py" not in sys.modules
"""
    run_python(code)


def test_generation_side_never_imports_keras(run_python, tmp_path):
    code = f"""
import sys
import hippylib_dino as hd
from tests import problems
model = problems.linear(hd.sample_communicator())
hd.generate(model, {str(tmp_path / "d")!r}, n_samples=3, input_rank=3, output_rank=3, progress=False)
assert "keras" not in sys.modules and "tensorflow" not in sys.modules
"""
    run_python(code)


def test_both_import_orders(run_python, confusion_dataset, tmp_path):
    for first, second in (("dolfin", "hippylib_dino.network.training"), ("hippylib_dino.network.training", "dolfin")):
        code = f"""
import {first}
import {second}
import hippylib_dino as hd
dino = hd.train(hd.Dataset.open({str(confusion_dataset.path)!r}), "l2", epochs=1, hidden=(4,), progress=False)
model = dino.keras_model()
model.save({str(tmp_path / f"{first}.keras")!r})
"""
        run_python(code)


def test_h5py_that_clashes_with_dolfin_is_named(run_python, tmp_path):
    """A stand-in for the wheel: it fails as the wheel does once dolfin's HDF5 is loaded."""
    (tmp_path / "h5py.py").write_text("raise ValueError('Not a datatype (not a datatype)')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import dolfin, hippylib_dino as hd; hd.train"
    done = run_python(code, check=False)
    assert done.returncode
    assert "LibraryError: h5py: cannot be imported (Not a datatype" in done.stderr
    assert "pip uninstall h5py" in done.stderr
    done = run_python(code.replace("import dolfin, ", "import "), check=False)
    assert "Keras needs it: install h5py" in done.stderr

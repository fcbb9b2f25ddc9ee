"""Examples in docstrings run, and every module can be imported."""

import doctest
import importlib
import pkgutil

import hippylib_dino


def test_examples():
    names = [m.name for m in pkgutil.walk_packages(hippylib_dino.__path__, "hippylib_dino.")]
    results = {name: doctest.testmod(importlib.import_module(name)) for name in names}
    assert [name for name, result in results.items() if result.failed] == []
    assert sum(result.attempted for result in results.values()) >= 10

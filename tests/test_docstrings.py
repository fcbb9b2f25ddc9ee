"""Examples in docstrings run, and every module can be imported."""

import doctest
import importlib
import pkgutil

import hippylib_dino


def test_examples():
    modules = pkgutil.walk_packages(hippylib_dino.__path__, "hippylib_dino.")
    names = [m.name for m in modules if not m.name.endswith(".__main__")]  # which are commands
    results = {name: doctest.testmod(importlib.import_module(name)) for name in names}
    assert [name for name, result in results.items() if result.failed] == []
    assert sum(result.attempted for result in results.values()) >= 10

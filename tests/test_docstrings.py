"""Examples in docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import hippylib_dino

MODULES = [m.name for m in pkgutil.walk_packages(hippylib_dino.__path__, "hippylib_dino.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    examples = [e for name in MODULES for t in finder.find(importlib.import_module(name)) for e in t.examples]
    assert len(examples) >= 10

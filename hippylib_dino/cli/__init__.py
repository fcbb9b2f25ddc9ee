"""`hippylib-dino`: a thin skin over the functions of the same names.

An APPLICATION is the name of an importable module with ``build(comm, ...) -> hd.JacobianModel``,
for instance ``applications.confusion``.
"""

from hippylib_dino.cli.entry import app, main

__all__ = ["app", "main"]

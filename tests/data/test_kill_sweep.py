"""Killed at every file operation of a run's life: making, rank change, both passes, append, clean-up."""

import os
import shutil

import numpy as np
import pytest
import zarr.storage._local as local

import hippylib_dino as hd
from hippylib_dino.data import dataset as dataset_module
from hippylib_dino.errors import RankError

FIRST = {"n_samples": 3, "n_validation": 1, "n_test": 1, "n_basis_samples": 2, "input_rank": 4, "output_rank": 5}
LATER = {**FIRST, "n_samples": 4}  # appended
TOO_WIDE = {**FIRST, "input_rank": 12}  # refused once the Jacobians are there, then taken back
ARRAYS = ("x", "y", "reduced_jacobian", "observable", "jacobian_energy")


class Killed(BaseException):
    """Passes through every `except Exception`, as a kill would."""


class Fuse:
    """Raises at the n-th file operation."""

    def __init__(self, monkeypatch):
        self.left = 10**9
        for module, name in ((local, "_put"), (os, "replace"), (shutil, "rmtree"), (dataset_module.os, "replace")):
            operation = getattr(module, name)
            monkeypatch.setattr(module, name, self._counted(operation))

    def _counted(self, operation):
        if getattr(operation, "counted", False):
            return operation

        def counted(*args, **kwargs):
            self.left -= 1
            if self.left < 0:
                raise Killed
            return operation(*args, **kwargs)

        counted.counted = True
        return counted


def _life(model, path):
    """What a user does to one directory, whatever was done of it before."""
    if not path.exists() or not (path / "bases" / "input").exists():
        with pytest.raises(RankError):
            hd.generate(model, path, **TOO_WIDE, resume=True, progress=False)
    hd.generate(model, path, **FIRST, resume=True, progress=False)
    return hd.generate(model, path, **LATER, resume=True, progress=False)


def test_every_moment(models, tmp_path, monkeypatch):
    model = models["linear"]
    whole = _life(model, tmp_path / "whole")
    expected = {name: zarr_array(whole, name) for name in ARRAYS}
    fuse = Fuse(monkeypatch)
    _life(model, tmp_path / "counted")
    operations = 10**9 - fuse.left
    assert operations > 100
    kills = 0
    for moment in range(0, operations, 7):
        path = tmp_path / f"killed-{moment}"
        fuse.left = moment
        try:
            _life(model, path)
        except Killed:
            kills += 1
        fuse.left = 10**9
        if (path / "zarr.json").exists() and (path / "bases" / "input").exists() and not _appended(path):
            hd.generate(model, path, **FIRST, resume=True, progress=False)
        d = hd.generate(model, path, **LATER, resume=True, progress=False)
        assert d.verify() == 6
        for name, values in expected.items():
            found = zarr_array(d, name)
            assert found.shape == values.shape
            np.testing.assert_allclose(
                found, values, rtol=0, atol=1e-9 * np.abs(values).max(), err_msg=f"{moment} {name}"
            )
        assert {p.name for p in path.iterdir()} == {p.name for p in whole.path.iterdir()}
        shutil.rmtree(path)
    assert kills > 20


def _appended(path):
    return hd.Dataset.open(path).plan.n_train == LATER["n_samples"]


def zarr_array(dataset, name):
    import zarr

    return zarr.open_group(dataset.path, mode="r")[name][:]

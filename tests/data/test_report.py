"""What `info` says of a dataset, at any time of its life."""

import json

import pytest

import hippylib_dino as hd
from hippylib_dino.data.lock import DirectoryLock
from hippylib_dino.data.solving import SampleSolver

SIZE = {"n_samples": 4, "n_validation": 1, "n_test": 1, "input_rank": 6, "output_rank": 5, "progress": False}


def test_finished_dataset(models, tmp_path):
    d = hd.generate(models["linear"], tmp_path / "d", **SIZE)
    rows = hd.data.report(d)
    assert rows["samples"] == "6 of 6 finished (100%): 4 train, 1 validation, 1 test"
    assert rows["failures"] == "none of 6 failed"
    assert rows["written by"] == "nobody now"
    assert "samples an hour on 1 ranks" in rows["speed"]
    assert "hours left" not in rows["speed"]
    assert {f"fingerprint of the {part}" for part in d.fingerprint} <= set(rows)
    assert "hippylib 3.2" in rows["versions"]


def test_dataset_in_the_making(models, tmp_path, monkeypatch):
    """Interrupted in the second pass, and held by another run."""
    solve = SampleSolver.solve

    def interrupted(self, index):
        if index == 5:
            raise KeyboardInterrupt
        return solve(self, index)

    monkeypatch.setattr(SampleSolver, "solve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hd.generate(models["linear"], tmp_path / "d", **SIZE)
    lock = DirectoryLock(tmp_path / "d")
    rows = hd.data.report(hd.Dataset.open(tmp_path / "d"))
    lock.release()
    assert rows["samples"].startswith("5 of 6 finished (83%)")
    assert "hours left at that pace" in rows["speed"]
    assert json.loads(rows["written by"])["pid"] > 0


def test_before_there_are_bases(models, tmp_path, monkeypatch):
    def failing(self, index):
        raise hd.errors.SolveError("no")

    monkeypatch.setattr(SampleSolver, "solve", failing)
    with pytest.raises(hd.errors.GenerationError):
        hd.generate(models["linear"], tmp_path / "d", **SIZE, max_failures=8)
    rows = hd.data.report(hd.Dataset.open(tmp_path / "d"))
    assert rows["bases"].endswith("(not computed yet; 4 finished)")

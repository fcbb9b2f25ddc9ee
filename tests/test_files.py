"""A full disk: what was there stays whole, and nothing half written is left beside it."""

import contextlib
import resource

import numpy as np
import pytest
from matplotlib.figure import Figure

import hippylib_dino as hd
from hippylib_dino import mcmc, plotting
from hippylib_dino.errors import InputError
from hippylib_dino.files import write_file
from hippylib_dino.mcmc.chains import STATISTICS
from hippylib_dino.ouu.journal import Journal

ROOM = 2000  # bytes


@contextlib.contextmanager
def full_disk(room=ROOM):
    """No file may grow beyond `room` bytes: a write fails half way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def figure():
    drawn = Figure()
    drawn.subplots().plot(np.sin(np.arange(100.0)))
    return drawn


def chains():
    values = np.random.default_rng(0).standard_normal((2, 500))
    return mcmc.Chains("some", {"x": values}, dict.fromkeys(STATISTICS, values), [], {})


WRITERS = {
    "dino": ("a.dino", lambda dino, path: dino.save(path, overwrite=True)),
    "inference": ("b.dino", lambda dino, path: hd.ReducedInference(dino, 1e-4).save(path, overwrite=True)),
    "figure": ("c.png", lambda dino, path: plotting.save(figure(), path)),
    "vector figure": ("c.pdf", lambda dino, path: plotting.save(figure(), path)),
    "chains": ("d.nc", lambda dino, path: chains().save(path, overwrite=True)),
    "any": ("e", lambda dino, path: write_file(path, lambda stream: stream.write(b"x" * 10 * ROOM))),
}


@pytest.mark.parametrize("before", [None, b"precious"])
@pytest.mark.parametrize("kind", WRITERS)
def test_full_disk_leaves_what_was_there_and_nothing_else(linear_dino, tmp_path, kind, before):
    name, write = WRITERS[kind]
    path = tmp_path / name
    if before is not None:
        path.write_bytes(before)
    with full_disk(), pytest.raises(OSError, match="too large"):
        write(linear_dino, path)
    assert [file.name for file in tmp_path.iterdir()] == [name] * (before is not None)
    assert before is None or path.read_bytes() == before
    write(linear_dino, path)  # once there is room again
    assert path.stat().st_size > ROOM


def test_full_disk_leaves_the_whole_records_of_a_journal(tmp_path):
    path, questions = tmp_path / "journal", np.arange(6.0).reshape(3, 2)
    journal = Journal(path, resume=False, settings={"method": "some"})
    journal.ask(questions[0], lambda: np.ones(3))
    content = path.read_bytes()
    with full_disk(len(content) + 30), pytest.raises(OSError, match="too large"):
        journal.ask(questions[1], lambda: np.ones(3))
    assert path.read_bytes() == content
    journal.ask(questions[1], lambda: np.ones(3))  # once there is room again
    again = Journal(path, resume=True, settings={"method": "some"})  # which would warn of half a record
    for question in questions[:2]:
        np.testing.assert_array_equal(again.ask(question, lambda: np.ones(3)), np.ones(3))
    assert not again.replays
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_where_a_file_is_written_first_is_not_followed(tmp_path):
    (tmp_path / "target").write_text("precious")
    (tmp_path / "e.partial").symlink_to(tmp_path / "target")
    with pytest.raises(InputError, match="expected a plain file of this package's own"):
        write_file(tmp_path / "e", lambda stream: stream.write(b"x"))
    assert (tmp_path / "target").read_text() == "precious"

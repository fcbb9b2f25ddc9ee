"""A journal that was damaged gives its good beginning with a warning, or a clear error."""

import struct

import numpy as np
import pytest

from hippylib_dino.errors import InputError
from hippylib_dino.ouu.journal import Journal

SETTINGS = {"method": "some", "start": [0.5, 1.0]}
QUESTIONS = np.arange(6.0).reshape(3, 2)


def _answer(question):
    return np.array([question.sum(), question[0] ** 2, 1.0])


def _run(path, n=3):
    """What an algorithm is told that asks `n` questions, and how many answers were computed."""
    journal, computed = Journal(path, resume=True, settings=SETTINGS), []

    def compute(question):
        computed.append(question)
        return _answer(question)

    return [journal.ask(q, lambda q=q: compute(q)) for q in QUESTIONS[:n]], len(computed)


@pytest.fixture
def content(tmp_path):
    _run(tmp_path / "whole")
    return (tmp_path / "whole").read_bytes()


def _header(content):
    return content.index(b"\n", content.index(b"\n") + 1) + 1


def test_every_flipped_byte_and_every_cut_is_noticed(content, tmp_path):
    path, header = tmp_path / "damaged", _header(content)
    damages = []
    for i in range(len(content)):
        flipped = bytearray(content)
        flipped[i] ^= 1 << i % 8
        damages.append((i, bytes(flipped)))
    damages += [(i, content[:i]) for i in range(1, len(content)) if (i - header) % 72]  # 16 + 8 (2 + 3) + 16 a record
    for first, damaged in damages:
        path.write_bytes(damaged)
        if first < header:
            with pytest.raises(InputError, match="holds no iterates of this problem"):
                _run(path)
            assert path.read_bytes() == damaged  # nothing is lost
            continue
        with pytest.warns(UserWarning, match="cut short or altered"):
            answers, computed = _run(path)
        np.testing.assert_array_equal(answers, [_answer(q) for q in QUESTIONS])
        good = (first - header) // 72
        assert computed == 3 - good + (good > 0)  # the last one that is kept is computed anew
        assert path.read_bytes() == content


@pytest.mark.parametrize("sizes", [(-1, -1), (-1, 0), (0, -1), (-2, 0), (2**62, 2**62), (-(2**63), 2), (-8, 8)])
def test_sizes_that_cannot_be_end_the_file(content, tmp_path, sizes):
    path = tmp_path / "damaged"
    path.write_bytes(content[: _header(content)] + struct.pack("<qq", *sizes) + content)
    with pytest.warns(UserWarning, match="the 0 before it are kept"):
        _, computed = _run(path)
    assert computed == 3


def test_records_of_another_journal_or_order_are_dropped(content, tmp_path):
    header, path = _header(content), tmp_path / "damaged"
    records = [content[header + 72 * i : header + 72 * (i + 1)] for i in range(3)]
    path.write_bytes(content[:header] + records[1] + records[0] + records[2])
    with pytest.warns(UserWarning, match="the 0 before it"):
        _run(path)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="expected a plain file of this package's own"):
        _run(tmp_path / "link", n=1)
    assert not (tmp_path / "elsewhere").exists()

"""What `verify` finds: every edited digit, flipped bit, removed or exchanged file of a small dataset."""

import random
import re
import shutil

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.data.lock import DirectoryLock
from hippylib_dino.data.solving import SampleSolver
from hippylib_dino.errors import DatasetError, DinoError, InputError, SolveError

SIZE = {
    "n_samples": 3, "n_validation": 1, "n_test": 1, "n_basis_samples": 2, "input_rank": 3, "output_rank": 4,
    "store_full": True, "progress": False,
}  # fmt: skip
FAILED = 4
RUN = re.compile(r"runs/\d.*")  # statistics of runs: nothing depends on there being all


@pytest.fixture(scope="module")
def pair(models, tmp_path_factory):
    """Two datasets of one shape, with failures and appended samples."""
    folder, solve = tmp_path_factory.mktemp("integrity"), SampleSolver.solve

    def failing(self, index):
        if index == FAILED:
            raise SolveError("out of luck")
        return solve(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SampleSolver, "solve", failing)
        made = [hd.generate(models["linear"], folder / str(seed), seed=seed, **SIZE) for seed in (0, 1)]
    return [
        hd.data.append(models["linear"], d, 1.01 * d.full("m", [0])[:1], ["by hand"], progress=False).path for d in made
    ]


@pytest.fixture
def copy(pair, tmp_path):
    shutil.copytree(pair[0], tmp_path / "copy")
    return tmp_path / "copy"


def files(path):
    return sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())


def is_found(path):
    """Whether opening or verifying names the damage; anything but an error of this package is raised."""
    try:
        hd.Dataset.open(path).verify()
    except DinoError:
        return True
    return False


def passed(copy, changes):
    """Of changes (file, new content or None), those that are not found."""
    missed = []
    for name, content in changes:
        file = copy / name
        before = file.read_bytes()
        file.unlink() if content is None else file.write_bytes(content)
        if not is_found(copy):
            missed.append(str(name))
        file.write_bytes(before)
    return missed


def test_a_sound_dataset_passes(copy):
    assert hd.Dataset.open(copy).verify() == 5
    assert [f["index"] for f in hd.Dataset.open(copy).failures] == [FAILED]


def test_every_edited_digit_of_the_metadata_is_found(copy):
    rng, changes = random.Random(0), []
    for name in files(copy):
        content = (copy / name).read_bytes()
        places = [m.start() for m in re.finditer(rb"\d", content)] if name.suffix == ".json" else []
        for place in places if len(places) < 8 else rng.sample(places, 8):
            edited = bytearray(content)
            edited[place] = ord(str((int(chr(edited[place])) + rng.randint(1, 9)) % 10))
            changes.append((name, bytes(edited)))
    assert len(changes) > 100
    assert passed(copy, changes) == []


def test_info_finds_every_flipped_bit_of_the_metadata(copy):
    rng = random.Random(2)
    for name in files(copy):
        content = (copy / name).read_bytes()
        for place in rng.sample(range(len(content)), 2) if name.suffix == ".json" else ():
            flipped = bytearray(content)
            flipped[place] ^= 1 << rng.randrange(8)
            (copy / name).write_bytes(flipped)
            with pytest.raises(DinoError):
                hd.data.report(hd.Dataset.open(copy))
        (copy / name).write_bytes(content)


def test_every_flipped_bit_is_found(copy):
    rng, changes = random.Random(1), []
    for name in files(copy):
        content = bytearray((copy / name).read_bytes())
        place = rng.randrange(len(content))
        content[place] ^= 1 << rng.randrange(8)
        changes.append((name, bytes(content)))
    assert passed(copy, changes) == []


def test_every_removed_file_is_found(copy):
    changes = [(name, None) for name in files(copy) if not RUN.fullmatch(str(name))]
    assert passed(copy, changes) == []


LOST = ["x", "y/zarr.json", "status", "jacobian", "work", "bases/input/encoder", "given/00000005/m", "failures"]


@pytest.mark.parametrize("place", LOST)
def test_repair_of_what_no_solve_brings_back_changes_nothing(models, copy, place):
    """What is to be solved again is found out first; where that fails, no sample has been given up."""
    shutil.rmtree(copy / place) if (copy / place).is_dir() else (copy / place).unlink()
    before = {name: (copy / name).read_bytes() for name in files(copy)}
    with pytest.raises(DatasetError, match="is damaged"):
        hd.generate(models["linear"], copy, **SIZE, resume=True, repair=True)
    assert {name: (copy / name).read_bytes() for name in files(copy)} == before


@pytest.mark.parametrize("name", ["status", "work", "m", "observable", "covariance", "jacobian"])
def test_first_pass_without_one_of_its_arrays_is_refused_by_name(models, tmp_path, monkeypatch, name):
    def interrupted(self, index):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SampleSolver, "solve", interrupted)
        with pytest.raises(KeyboardInterrupt):
            hd.generate(models["linear"], tmp_path / "d", **SIZE)
    shutil.rmtree(tmp_path / "d" / "basis_samples" / name)
    for repair in (False, True):
        with pytest.raises(DatasetError, match=f"array 'basis_samples/{name}' is damaged"):
            hd.generate(models["linear"], tmp_path / "d", **SIZE, resume=True, repair=repair)


def test_every_file_of_another_dataset_is_found(pair, copy):
    theirs = {name: (pair[1] / name).read_bytes() for name in files(copy) if (pair[1] / name).exists()}
    changes = [(name, content) for name, content in theirs.items() if content != (copy / name).read_bytes()]
    assert len(changes) > 20
    assert passed(copy, changes) == []


def test_samples_and_arrays_that_change_places_are_found(pair, copy):
    arrays = [array.name for array in pair[0].iterdir() if (array / "c").is_dir()]
    for array in arrays:
        first, second, aside = (copy / array / "c" / name for name in ("0", "1", "aside"))
        for old, new in ((first, aside), (second, first), (aside, second)):
            old.rename(new)
    assert is_found(copy)
    for array in arrays:
        shutil.rmtree(copy)
        shutil.copytree(pair[0], copy)
        shutil.rmtree(copy / array)
        shutil.copytree(pair[1] / array, copy / array)
        assert is_found(copy), array


def test_splits_that_overlap_are_refused_before_a_training(copy):
    file = copy / "zarr.json"
    text = file.read_text()
    assert '"n_validation": 1' in text
    file.write_text(text.replace('"n_validation": 1', '"n_validation": 2'))
    with pytest.raises(DatasetError):
        hd.train(hd.Dataset.open(copy), progress=False)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("not to be lost")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ".lock").symlink_to(target)
    with pytest.raises(InputError, match="it is a link, a folder or a device"):
        DirectoryLock(tmp_path / "d")
    assert target.read_text() == "not to be lost"


# ---- arguments ---------------------------------------------------------------------------------


def test_numpy_scalars_are_numbers(models, tmp_path):
    size = {
        name: np.bool_(value) if isinstance(value, bool) else np.int64(value)
        for name, value in SIZE.items()
        if name != "progress"
    }
    dataset = hd.generate(models["linear"], tmp_path / "d", seed=np.int32(0), progress=np.False_, **size)
    assert dataset.verify() == 5
    assert hd.generate(models["linear"], tmp_path / "d", resume=True, **SIZE).verify() == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", -1), ("seed", 0.5), ("n_samples", 2.5), ("n_samples", True), ("n_validation", -1), ("max_failures", -1)],
)
def test_numbers_that_cannot_be_leave_no_directory(models, tmp_path, name, value):
    with pytest.raises(InputError, match=name):
        hd.generate(models["linear"], tmp_path / "d", **{**SIZE, name: value})
    assert not (tmp_path / "d").exists()

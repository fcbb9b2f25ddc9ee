"""The report: what it says, that it is whole, that it replaces nothing unasked."""

import dataclasses
import re

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError
from hippylib_dino.network.reporting import verdict
from hippylib_dino.plotting.training import percent

FIGURES = {"shares", "history", "samples", "size", "worst", "directions", "bases"}


@pytest.fixture(scope="module")
def written(confusion_dino, confusion_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "of" / "confusion"
    assert hd.report(confusion_dino, confusion_dataset, folder) == folder / "report.html"
    return folder


def test_every_figure_is_there_and_shown(written):
    text = (written / "report.md").read_text()
    assert set(re.findall(r"\]\((\w+)\.png\)", text)) == FIGURES
    assert {path.name for path in written.iterdir()} == {"report.md", "report.html", *(f"{f}.png" for f in FIGURES)}
    assert all((written / f"{name}.png").stat().st_size > 5000 for name in FIGURES)


def test_html_is_one_file(written):
    page = (written / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == len(FIGURES)
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("<table>") == 3
    assert "<title>DINO h1 of confusion</title>" in page


def test_numbers_are_those_of_the_evaluation(written, confusion_dino, confusion_dataset):
    text = (written / "report.md").read_text()
    errors = confusion_dino.evaluate(confusion_dataset)
    trivial = {f"{name}_{model}" for name in ("observable", "jacobian") for model in ("constant", "affine")}
    assert trivial <= set(errors)
    for name, value in errors.items():
        if name in trivial:
            assert percent(value) in text
            continue
        shown, low, high = re.search(rf"\| `{name}` \| (\S+)(?: %)? \| (\S+)(?: %)? .. (\S+)(?: %)? \|", text).groups()
        assert float(shown) == pytest.approx(100 * value, rel=1e-2, abs=1e-9)
        assert float(low) <= float(shown) <= float(high)
    assert "| formulation | h1 |" in text
    assert "| n train | 48 |" in text
    assert re.search(r"\| seconds \| \d+\.\d \|", text)
    assert f"| epochs | {confusion_dino.training['epochs']} |" in text


def test_worst_samples_are_the_worst(written, confusion_dino, confusion_dataset):
    text = (written / "report.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\S+) % \| \S+ % \| (\S+) \|$", text, re.MULTILINE)
    samples = confusion_dataset.split("test")
    observable = np.sqrt(confusion_dino.sample_errors(confusion_dataset)["observable"])
    worst = np.argsort(-observable)[:5]
    assert [int(row[0]) for row in rows] == samples.index[worst].tolist()
    np.testing.assert_allclose([float(row[1]) for row in rows], 100 * observable[worst], rtol=1e-2)
    np.testing.assert_allclose([float(row[2]) for row in rows], (samples.x[worst] ** 2).mean(axis=1), atol=0.006)


def test_what_is_there_is_not_replaced_unasked(written, confusion_dino, confusion_dataset, tmp_path):
    before = (written / "report.md").stat().st_mtime_ns
    with pytest.raises(InputError, match=r"folder: .* is not empty; pass overwrite=True"):
        hd.report(confusion_dino, confusion_dataset, written)
    assert (written / "report.md").stat().st_mtime_ns == before
    (tmp_path / "notes.txt").write_text("mine")
    hd.report(confusion_dino, confusion_dataset, tmp_path, "validation", overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert "8 validation samples" in (tmp_path / "report.md").read_text()
    with pytest.raises(InputError, match="is a file; choose another name"):
        hd.report(confusion_dino, confusion_dataset, tmp_path / "notes.txt", overwrite=True)


def test_a_dataset_of_other_bases_leaves_no_folder(confusion_dino, confusion_dataset, tmp_path):
    with pytest.raises(InputError, match="input basis is not the one"):
        hd.report(confusion_dino, confusion_dataset.truncate(12, 30), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_map_without_history(confusion_dino, confusion_dataset, tmp_path):
    """Not trained by Keras: no history, and no advice on epochs."""
    hd.report(dataclasses.replace(confusion_dino, training={}), confusion_dataset, tmp_path / "r")
    text = (tmp_path / "r" / "report.md").read_text()
    assert "history.png" not in text
    assert "epochs" not in text


@pytest.mark.parametrize(
    ("truncation", "network", "advice"),
    [
        (
            0.01,
            0.1,
            "samples help, ranks do not. Without truncation the error would be 10 %, without network",
        ),
        (0.1, 0.01, "ranks help, samples do not."),
        (0.1, 0.1, "Truncation is 50 % of the squared Jacobian error: ranks help, and so do samples."),
        (0.0, 0.1, "Truncation is 0 of the squared Jacobian error: samples help"),
        (0.0, 0.0, "There is no Jacobian error to lower."),
    ],
)
def test_verdict(truncation, network, advice):
    assert advice in verdict("Jacobian", truncation, network, ranks="ranks", effort="samples")


def test_whole_state(models, tmp_path):
    """The observable is not stored there: latent ones are shown."""
    dataset = hd.generate(
        models["state"], tmp_path / "d", n_samples=8, n_validation=2, n_test=4, input_rank=6, output_rank=4,
        output_basis="pod", n_basis_samples=8, progress=False,
    )  # fmt: skip
    hd.report(hd.linear_model(dataset), dataset, tmp_path / "r")
    assert "The latent observables of sample" in (tmp_path / "r" / "report.md").read_text()


def test_a_learned_encoder(confusion_dataset, tmp_path):
    """Its Jacobians are compared in the dataset's basis."""
    from hippylib_dino.network.full import FullDense

    network = FullDense(24, 30, hidden=(8, 8))
    dino = hd.train(confusion_dataset, "h1", architecture=network, epochs=2, progress=False)
    _, jacobians = dino.predict_samples(confusion_dataset, confusion_dataset.split("test"))
    assert jacobians.shape == (8, 30, 24)
    hd.report(dino, confusion_dataset, tmp_path / "r")
    assert "| `jacobian_network` |" in (tmp_path / "r" / "report.md").read_text()


def test_neither_keras_nor_dolfin(run_python, confusion_dataset, confusion_dino, tmp_path):
    confusion_dino.save(tmp_path / "a.dino")
    run_python(f"""
import sys
import hippylib_dino as hd
dataset = hd.Dataset.open({str(confusion_dataset.path)!r})
hd.report(hd.DINO.load({str(tmp_path / "a.dino")!r}), dataset, {str(tmp_path / "r")!r})
assert not {{"dolfin", "keras", "tensorflow", "matplotlib.pyplot"}} & set(sys.modules)
""")

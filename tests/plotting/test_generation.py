import pytest

import hippylib_dino as hd
from hippylib_dino import plotting
from hippylib_dino.errors import InputError


def test_dataset_in_four_panels(confusion_dataset):
    figure = plotting.plot_dataset(confusion_dataset)
    seconds, steps, size, spectra = figure.axes
    assert figure.get_suptitle() == "confusion: 64 samples, 0 failed"
    assert sum(patch.get_height() for patch in seconds.patches) == 64
    assert sum(patch.get_height() for patch in steps.patches) == 64
    assert sum(patch.get_height() for patch in size.patches) == 64
    assert [line.get_xdata()[0] for line in spectra.lines if line.get_linestyle() == ":"] == [24, 30]


def test_solver_that_does_not_report_is_said(models, tmp_path):
    """A user's own solver tells no iterations."""
    model = models["linear"]
    plain = hd.JacobianModel(
        hd.AcceleratedVariationalProblem.from_problem(
            model.problem, forward_solver=lambda problem, state, x: model.problem.solveFwd(state, x)
        ),
        model.prior,
        model.misfit,
    )
    d = hd.generate(plain, tmp_path / "d", n_samples=4, input_rank=3, output_rank=3, progress=False)
    texts = [text.get_text() for text in plotting.plot_dataset(d).axes[1].texts]
    assert texts == ["not reported by the solver"]
    assert (d.work["newton_iterations"] == -1).all()
    assert (d.work["seconds"] > 0).all()


def test_unfinished_dataset_is_named(models, tmp_path, monkeypatch):
    from hippylib_dino.data.solving import SampleSolver

    def interrupted(self, index):
        raise KeyboardInterrupt

    monkeypatch.setattr(SampleSolver, "solve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hd.generate(models["linear"], tmp_path / "d", n_samples=4, input_rank=3, output_rank=3, progress=False)
    with pytest.raises(InputError, match="dataset: expected one with bases and finished samples"):
        plotting.plot_dataset(hd.Dataset.open(tmp_path / "d"))

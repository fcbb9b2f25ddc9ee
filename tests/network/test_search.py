import sys

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError, LibraryError
from hippylib_dino.network.formulations import SketchedH1
from hippylib_dino.network.searching import _pruning, best_arguments, search

optuna = pytest.importorskip("optuna")

SMALL = {
    "width": (4, 8), "depth": (1, 2), "batch_size": (8, 12), "activation": ("gelu", "tanh"),
    "epochs": 3, "optimizer": "adam", "progress": False, "seed": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(confusion_dataset, tmp_path_factory):
    storage = tmp_path_factory.mktemp("search") / "search.db"
    search(confusion_dataset, "h1_sketched", n_trials=1, storage=storage, **SMALL)
    return search(confusion_dataset, "h1_sketched", n_trials=2, storage=storage, **SMALL), storage


def test_search_that_went_on_is_the_search_without_a_break(confusion_dataset, study):
    whole = search(confusion_dataset, "h1_sketched", n_trials=2, **SMALL)
    assert [t.params for t in study[0].trials] == [t.params for t in whole.trials]
    assert [t.values for t in study[0].trials] == [t.values for t in whole.trials]
    assert whole.trials[0].params != whole.trials[1].params


def test_best_arguments_train_the_best_dino(confusion_dataset, study):
    arguments, best = best_arguments(study[0]), study[0].best_params
    assert arguments["formulation"] == SketchedH1(best["jacobian_weight"])
    assert arguments["hidden"] == (best["width"],) * best["depth"]
    dino = hd.train(confusion_dataset, **arguments, epochs=3, optimizer="adam", progress=False)
    history, epoch = dino.training["history"], dino.training["best_epoch"] - 1
    loss = history["val_observable_error"][epoch] ** 2 + history["val_jacobian_error"][epoch] ** 2
    assert loss == pytest.approx(study[0].best_value, rel=1e-6)


def test_trials_that_are_done_are_not_run_again(confusion_dataset, study):
    again = search(confusion_dataset, "h1_sketched", n_trials=2, storage=study[1], **SMALL)
    assert len(again.trials) == 2


def test_storage_of_another_search_is_refused(confusion_dataset, study):
    with pytest.raises(InputError, match=r"storage: .* holds another search"):
        search(confusion_dataset, "h1", storage=study[1], **SMALL)


def test_poor_trials_end_early():
    """A trial far above the others ends at its first report after the warm-up."""
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=2))
    for scale in (1.0, 10.0):
        trial = study.ask()
        pruning = _pruning(trial, optuna.TrialPruned)
        pruning.set_params({"epochs": 40})
        ended = None
        for epoch in range(40):
            try:
                logs = {"val_loss": 0.0, "val_observable_error": scale, "val_jacobian_error": 0.0}
                pruning.on_epoch_end(epoch, logs if epoch % 2 else {"loss": 1.0})
            except optuna.TrialPruned:
                ended = epoch
                break
        study.tell(trial, None if ended else scale, state=optuna.trial.TrialState.PRUNED if ended else None)
    good, poor = study.trials
    assert list(good.intermediate_values) == list(range(1, 11))
    assert list(poor.intermediate_values) == [1, 2]
    assert poor.intermediate_values[1] == np.square(10.0)


def test_without_optuna_the_error_says_so(confusion_dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(LibraryError, match=r"optuna: cannot be imported, .* pip install 'hippylib_dino\[search\]'"):
        search(confusion_dataset)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_trials": 0}, "n_trials: expected at least 1, got 0"),
        ({"width": (8, 4)}, r"width: expected a range \(low, high\) with 0 < low <= high, got \(8, 4\)"),
        ({"learning_rate": (0.0, 1.0)}, "learning_rate: expected a range"),
        ({"jacobian_weight": (1.0,)}, "jacobian_weight: expected a range"),
        ({"formulation": "h2"}, "formulation: expected one of"),
    ],
)
def test_bad_arguments_are_named(confusion_dataset, arguments, message):
    with pytest.raises(InputError, match=message):
        search(confusion_dataset, **arguments)

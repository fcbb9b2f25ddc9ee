"""What there is to say of a dataset on one screen: progress, failures and the bias they leave, speed, provenance."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from hippylib_dino.data.dataset import Dataset
from hippylib_dino.data.layout import FAILED, PENDING
from hippylib_dino.data.lock import holder
from hippylib_dino.errors import DatasetError

SHOWN_FAILURES = 5


def report(dataset: Dataset) -> dict[str, str]:
    """Rows of a one-screen summary, label to text; it reads no sample but the failed ones' parameters.

    Parameters
    ----------
    dataset : Dataset
        Finished or not, being written or not.

    Examples
    --------
    ::

        for label, text in hd.data.report(hd.Dataset.open("data/confusion")).items():
            print(f"{label}: {text}")

    Raises
    ------
    DatasetError
        If the metadata are not what was written.
    """
    try:
        dataset.check_metadata()
    except DatasetError:  # perhaps a run has just changed them
        dataset.reopened().check_metadata()
    status, plan, controls = dataset.status, dataset.plan, dataset.control
    finished = int((status != PENDING).sum())
    rows = {
        "samples": f"{finished} of {plan.n_total} finished ({finished / plan.n_total:.0%}): "
        + ", ".join(f"{getattr(plan, f'n_{split}')} {split}" for split in ("train", "validation", "test"))
        + (f", {plan.n_given} with given parameters" if plan.n_given else ""),
        "bases": f"input {plan.input_basis}, rank {plan.input_rank}; "
        + ("" if controls is None else f"control {plan.control_basis}, rank {plan.control_rank}; ")
        + f"output {plan.output_basis}, rank {plan.output_rank}; from {plan.n_basis_samples} samples"
        + ("" if dataset.has_bases else f" (not computed yet; {dataset.basis_samples_finished} finished)"),
        "observable": {"data": "data, B u", "state": "the whole state"}[dataset.attributes["observable"]],
        "controls": "none" if controls is None else f"{type(controls).__name__} of {controls.dim}",
        "failures": _failures(dataset, int((status == FAILED).sum()), finished),
        "written by": holder(dataset.path) or "nobody now",
        "speed": _speed(dataset, plan.n_total - finished),
        "initial guess": dataset.attributes.get("initial_guess", {}).get("chosen", "the model's own"),
        "derivative check": _derivative_check(dataset),
        "seed": str(plan.seed),
        "full Jacobians": "stored" if plan.store_full else "not stored",
        "versions": ", ".join(f"{name} {version}" for name, version in dataset.attributes["versions"].items()),
    }
    for part, content in dataset.fingerprint.items():
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
        rows[f"fingerprint of the {part}"] = digest
    return rows


def bias_of_failures(dataset: Dataset) -> str:
    """What leaving failed draws out means for every statistic over the prior, in words and numbers."""
    drawn = np.setdiff1d(np.flatnonzero(dataset.status != PENDING), list(dataset.given))
    failures = [record for record in dataset.failures if record["index"] in drawn]
    if not failures:
        return "none failed: the samples are draws of the prior."
    finished = len(drawn)
    text = (
        f"{len(failures)} of {finished} ({len(failures) / finished:.2%}) failed and are left out, never replaced: the "
        "samples are draws of the prior given that its PDE is solved, and every mean over them carries that bias."
    )
    if dataset.has_bases:
        basis = dataset.input_basis
        failed = np.array([basis.encode(dataset.failed_parameter(record["index"])) for record in failures])
        norms = np.linalg.norm(failed, axis=1) / np.sqrt(basis.rank)
        text += f" Failed parameters have |x|/√rM = {norms.mean():.2f} on average, where the prior has 1."
    return text


def _failures(dataset: Dataset, count: int, finished: int) -> str:
    lines = [bias_of_failures(dataset) if count else f"none of {finished} failed"]
    lines += [f"sample {record['index']}: {record['reason']}" for record in dataset.failures[:SHOWN_FAILURES]]
    if count > SHOWN_FAILURES:
        lines.append(f"and {count - SHOWN_FAILURES} more in {dataset.path / 'failures'}")
    if dataset.rescued:
        lines.append(f"{len(dataset.rescued)} that failed at first were solved by a retry")
    return "\n".join(lines)


def _derivative_check(dataset: Dataset) -> str:
    """How far the Jacobian is from differences of the observable."""
    found = dataset.attributes.get("derivative_check")
    if not found:
        return "not made" if found is None else "no draw could be solved"
    parts = (f"J in the {name} within {each['error']:.1e} of central differences" for name, each in found.items())
    return ", ".join(parts)


def _speed(dataset: Dataset, left: int) -> str:
    """Of the last run that solved anything, bases pass or samples pass."""
    for run in reversed(dataset.runs):
        for label in ("samples", "bases"):
            solved, seconds = (run.get(label, {}).get(key, 0) for key in ("solved", "seconds"))
            if solved and seconds:
                rate = solved / seconds
                text = f"{3600 * rate:.0f} samples an hour on {run['ranks']} ranks, {run['ranks_per_sample']} a sample"
                return text + (f"; {left / rate / 3600:.2g} hours left at that pace" if left else "")
    return "not measured yet"

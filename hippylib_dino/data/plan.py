"""What a dataset is to hold, whether that can be, and which samples belong to which split."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

from hippylib_dino.errors import DatasetError, InputError, RankError
from hippylib_dino.reduction.ranks import Rank

SPLITS = ("train", "validation", "test")
GIVEN = "given"  # segments of training samples whose parameters were given, not drawn
# what may still change while no basis is computed
BASIS_CHOICES = (
    "input_rank",
    "output_rank",
    "control_rank",
    "input_energy",
    "output_energy",
    "control_energy",
    "input_basis",
    "output_basis",
    "control_basis",
)
INPUT_BASES = ("derivative", "kle")
OUTPUT_BASES = ("derivative", "pod", "identity")
CONTROL_BASES = ("none", "whitened", "derivative")


@dataclass(frozen=True)
class Plan:
    """What a dataset is to hold; stored with it, and the same again for a resumed run.

    Samples are numbered; a segment [split, first, count] gives a range of numbers to a split, or as "given" to the
    training samples whose parameters are not drawn.  More samples are appended as new segments, so that a number never
    changes its split.

    Attributes
    ----------
    n_given : int
        Samples with given parameters, which `n_train` does not count.
    input_rank, output_rank : int
        rM and rQ; 0 as long as there is no basis of the share that was asked for.
    input_energy, output_energy : float, optional
        The shares of the bases' energy that were asked for, where the ranks were not given by hand.
    control_basis : str
        "none" without a control; "whitened" for all controls, "derivative" for their derivative-informed subspace.
    control_rank, control_energy : int, float
        rZ as rM; 0 without a control.
    """

    n_train: int
    n_validation: int
    n_test: int
    n_basis_samples: int
    input_rank: int
    output_rank: int
    input_basis: str
    output_basis: str
    seed: int
    store_full: bool
    store_parameters: bool = False
    input_energy: float | None = None
    output_energy: float | None = None
    n_given: int = 0
    segments: tuple[tuple[str, int, int], ...] = ()
    control_basis: str = "none"
    control_rank: int = 0
    control_energy: float | None = None

    @classmethod
    def from_attributes(cls, stored: dict) -> Plan:
        """The plan that `to_attributes` wrote.

        Raises
        ------
        DatasetError
            If it is none, or its splits do not share its samples out, each to one of them.
        """
        try:
            segments = tuple((split, first, count) for split, first, count in stored["segments"])
            plan = cls(**{**stored, "segments": segments})
            plan._check_partition()
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"plan: is not what a dataset stores ({error}). Restore zarr.json from a backup, or generate again."
            ) from error
        return plan

    def _check_partition(self) -> None:
        """Raise `ValueError` unless each of the samples 0, 1, ... belongs to one split, in the numbers planned."""
        end, counts = 0, dict.fromkeys((*SPLITS, GIVEN), 0)
        for split, first, count in self.segments:
            if split not in counts or first != end or count < 1:
                raise ValueError(
                    f"splits: expected segments of {tuple(counts)} one behind the other, each sample in one of them, "
                    f"got {self.segments}"
                )
            counts[split], end = counts[split] + count, end + count
        planned = {split: getattr(self, f"n_{split}") for split in counts}
        if counts != planned:
            raise ValueError(f"splits: expected {planned} samples in the segments, got {counts}")

    def to_attributes(self) -> dict:
        """For JSON."""
        return asdict(self)

    def asked(self, basis: str) -> Rank:
        """What was asked for as rank of the "input", "output" or "control" basis: a rank, or a share of the energy."""
        share = getattr(self, f"{basis}_energy")
        return getattr(self, f"{basis}_rank") if share is None else share

    def _request(self) -> dict[str, Any]:
        """What was asked for, by the names of the arguments, but for `n_train`."""
        request = asdict(self)
        for key in ("segments", "n_given", "input_energy", "output_energy", "control_energy"):
            del request[key]
        return {**request, **{f"{basis}_rank": self.asked(basis) for basis in ("input", "output", "control")}}

    @property
    def n_total(self) -> int:
        """Samples of all three splits, given ones included."""
        return self.n_train + self.n_validation + self.n_test + self.n_given

    @property
    def given(self) -> tuple[range, ...]:
        """Numbers of the samples with given parameters, a range for each batch."""
        return tuple(range(first, first + count) for name, first, count in self.segments if name == GIVEN)

    def with_given(self, count: int) -> Plan:
        """This plan with a batch of given parameters behind its samples."""
        return replace(self, n_given=self.n_given + count, segments=(*self.segments, (GIVEN, self.n_total, count)))

    def with_segments(self, before: tuple[tuple[str, int, int], ...] = ()) -> Plan:
        """This plan with `before`'s segments, and behind them what is new."""
        segments = list(before)
        for split in SPLITS:
            new = getattr(self, f"n_{split}") - sum(count for name, _, count in before if name == split)
            if new:
                segments.append((split, sum(count for _, _, count in segments), new))
        return replace(self, segments=tuple(segments))

    def appended_to(self, stored: Plan, what: str) -> Plan:
        """This plan, where it only adds samples to `stored`, with the ranks that were found there for its shares.

        Raises
        ------
        DatasetError
            If anything else differs, or a split would shrink; `what` names the dataset.
        """
        counts = tuple(f"n_{split}" for split in SPLITS)
        was, now = stored._request(), self._request()
        different = [key for key in was if (now[key] < was[key] if key in counts else now[key] != was[key])]
        if different:
            argument = {"n_train": "n_samples"}
            changes = "; ".join(f"{argument.get(key, key)} was {was[key]}, is {now[key]}" for key in different)
            raise DatasetError(
                f"path: {what} was planned otherwise: {changes}. Resume with the same numbers or with more samples. "
                "For other ranks or bases choose another directory, with reuse=this dataset if it has full Jacobians."
            )
        names = ("input_rank", "output_rank", "control_rank", "n_given")
        return replace(self, **{name: getattr(stored, name) for name in names}).with_segments(stored.segments)

    def lowered(self, bases: Collection[str], n_parameters: int, n_observables: int, whole_state: bool) -> Plan:
        """This plan with the ranks of `bases`, "input" or "output", no larger than its samples can give."""
        plan = self
        if "output" in bases:  # at least 1, which `check` refuses where there is none
            limit = max(1, plan._output_limit(n_observables))
            plan = replace(plan, output_rank=min(plan.output_rank, limit))
        if "input" in bases:
            limit = max(1, plan._input_limit(n_parameters, n_observables, whole_state))
            plan = replace(plan, input_rank=min(plan.input_rank, limit))
        return plan

    def _output_limit(self, n_observables: int) -> int:
        return min(n_observables, self.n_basis_samples - 1) if self.output_basis == "pod" else n_observables

    def _input_limit(self, n_parameters: int, n_observables: int, whole_state: bool) -> int:
        if self.input_basis != "derivative":
            return n_parameters
        # rows of each Jacobian that the input basis is made from; the output rank of a share is not known yet
        n_rows = self.output_rank if whole_state and self.output_rank else n_observables
        return min(n_parameters, self.n_basis_samples * n_rows)

    def check(self, n_parameters: int, n_observables: int, whole_state: bool) -> None:
        """Raise `InputError` for numbers and names that cannot be, `RankError` for ranks beyond the data.

        Parameters
        ----------
        n_parameters, n_observables : int
            dM, dQ.
        whole_state : bool
            Whether the observable is the whole state, whose input basis is made from rQ rows of each Jacobian.
        """
        for name in ("n_train", "n_basis_samples"):
            if getattr(self, name) < 1:
                argument = "n_samples" if name == "n_train" else name
                raise InputError(f"{argument}: expected at least 1, got {getattr(self, name)}.")
        for name in ("n_validation", "n_test", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: expected at least 0, got {getattr(self, name)}.")
        if self.n_basis_samples > self.n_train:
            raise InputError(
                f"n_basis_samples: expected at most n_samples = {self.n_train}, since the bases are built from "
                f"training samples, got {self.n_basis_samples}."
            )
        for name, choices in (("input_basis", INPUT_BASES), ("output_basis", OUTPUT_BASES)):
            if getattr(self, name) not in choices:
                expected = ", ".join(f'"{choice}"' for choice in choices[:-1]) + f' or "{choices[-1]}"'
                raise InputError(f"{name}: expected {expected}, got {getattr(self, name)!r}.")
        if self.output_basis == "identity" and self.asked("output") != n_observables:
            raise RankError(
                f"output_rank: expected {n_observables}, all observables, which the identity keeps, got "
                f'{self.asked("output")}. Leave output_rank away, or pass output_basis="derivative" or "pod".'
            )
        self._check_rank("input_rank", self._input_limit(n_parameters, n_observables, whole_state))
        self._check_rank("output_rank", self._output_limit(n_observables))

    def _check_rank(self, name: str, limit: int) -> None:
        if getattr(self, name) > limit:
            raise RankError(
                f"{name}: expected at most {limit}, which is what {self.n_basis_samples} basis samples of this "
                f"problem can give, got {getattr(self, name)}. "
                f"Lower {name}, or raise n_basis_samples if that is what limits it."
            )

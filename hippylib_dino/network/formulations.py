"""Formulations: what of values and Jacobians the loss compares.

Every formulation is the same loss,

    mean_i ‖y_i - f(x_i)‖² / S  +  w mean_i s ‖W_i (J_i - ∂f(x_i)) V_iᵀ‖_F² / ‖J_i‖²,

with both norms in noise standard deviations (and prior-precision for J) and S the mean of ‖q - q̄‖² over the training
samples (`hippylib_dino.network.sizes`), and differs in the directions W_i and V_i on
which Jacobians are compared: none, all, each sample's singular vectors, or random ones.
A shift of the observable changes nothing in it.
With a control J is [J_m Ψ, J_z D] as a whole, but for `H1`, which weighs its two parts each by its own norm.
The first three after O'Leary-Roseberry et al., J. Comput. Phys. 496 (2024), arXiv 2206.10745; the losses of their code,
github.com/tomoleary/dino, divide by each sample's own norms of the reduced quantities instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from functools import cache
from typing import ClassVar, NamedTuple

import numpy as np
import scipy.fft

from hippylib_dino.data.dataset import Samples
from hippylib_dino.errors import InputError
from hippylib_dino.network.sizes import floored

SWEEPS = ("auto", "reverse", "forward")


class Compared(NamedTuple):
    """What the Jacobian term of one batch compares.

    Attributes
    ----------
    jacobian : (n, k, l)
        W J Vᵀ.
    rows : (n, k, rQ) or None
        W; None for all of Φ's directions.
    columns : (n, l, rM) or None
        V; None for all of Ψ's directions.
    scale : float
        s, which makes the expectation that of the whole Jacobian.
    """

    jacobian: np.ndarray
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    scale: float = 1.0

    def directions(self) -> dict[str, np.ndarray]:
        """What the Keras model takes besides x."""
        given = {"rows": self.rows, "columns": self.columns}
        return {name: values for name, values in given.items() if values is not None}

    def at(self, pick: np.ndarray) -> Compared:
        """Some of the samples."""
        return Compared(self.jacobian[pick], **{k: v[pick] for k, v in self.directions().items()}, scale=self.scale)

    @staticmethod
    def joined(parts: list[Compared]) -> Compared:
        """The samples of all parts."""
        if len(parts) == 1:
            return parts[0]
        names = parts[0].directions()
        directions = {name: np.concatenate([part.directions()[name] for part in parts]) for name in names}
        return Compared(np.concatenate([part.jacobian for part in parts]), **directions, scale=parts[0].scale)


@dataclass(frozen=True)
class Formulation(ABC):
    """Base of all formulations.

    Attributes
    ----------
    random : bool
        Whether directions are drawn anew for each batch.
    """

    random: ClassVar[bool] = False

    def get_config(self) -> dict:
        """Its parameters, for the record."""
        return {"kind": type(self).__name__, **asdict(self)}

    @abstractmethod
    def check(self, input_rank: int, output_rank: int) -> None:
        """Raise `InputError` where the formulation asks for more directions than there are."""

    def weights(self, samples: Samples) -> np.ndarray:
        """Weights of the Jacobian term, (n,): 1/‖J‖², bounded by `floored`; or (n, rM + rZ), one for each column."""
        return 1.0 / floored(samples.jacobian_energy)

    @abstractmethod
    def outputs(self, input_rank: int, output_rank: int) -> dict:
        """What the Keras model has to give: keywords of `hippylib_dino.network.layers.Outputs`."""

    @abstractmethod
    def compare(self, jacobian: np.ndarray, rng: np.random.Generator) -> Compared | None:
        """Directions and true values of a batch of reduced Jacobians (n, rQ, rM); None if they do not matter."""


@dataclass(frozen=True)
class L2(Formulation):
    """Values alone."""

    def check(self, input_rank: int, output_rank: int) -> None:
        """No directions."""

    def outputs(self, input_rank: int, output_rank: int) -> dict:
        return {"jacobian": False}

    def compare(self, jacobian: np.ndarray, rng: np.random.Generator) -> Compared | None:
        return None


@dataclass(frozen=True)
class JacobianFormulation(Formulation):
    """Base of those that compare Jacobians.

    Parameters
    ----------
    jacobian_weight : float
        w, of relative errors of Jacobians beside those of values relative to their spread.  Between 10 and 100 neither
        error depends on it much, with 1 both are larger (benchmarks/jacobian_weight.py).
    """

    jacobian_weight: float = 10.0

    def __post_init__(self):
        if not self.jacobian_weight > 0:
            raise InputError(
                f'jacobian_weight: expected > 0, got {self.jacobian_weight}; for values alone use formulation="l2".'
            )

    @property
    def term_weight(self) -> float:
        """Factor of the whole Jacobian term."""
        return self.jacobian_weight


def _check_sweep(sweep: str) -> None:
    if sweep not in SWEEPS:
        raise InputError(f"sweep: expected one of {SWEEPS}, got {sweep!r}.")


@dataclass(frozen=True)
class H1(JacobianFormulation):
    """Values and whole reduced Jacobians.

    With a control the Jacobian term is w mean_i ‖ΔJ_m‖²/‖J_m‖² + w_z mean_i ‖ΔJ_z‖²/‖J_z‖²: the two parts have
    different units and sizes, and either may be switched off.

    Parameters
    ----------
    jacobian_weight : float
        w.  With a control it may be 0.
    control_weight : float, optional
        w_z, with a control; default w.  0 does not compare control Jacobians.
    sweep : "auto", "reverse" or "forward"
        Through the network from its outputs, or from its inputs; "auto" takes the side with the smaller rank.
    """

    control_weight: float | None = None
    sweep: str = "auto"

    def __post_init__(self):
        _check_sweep(self.sweep)
        if self.control_weight is None:
            super().__post_init__()
        elif min(self.jacobian_weight, self.control_weight) < 0 or self.term_weight == 0:
            raise InputError(
                "jacobian_weight, control_weight: expected at least 0 and one of them > 0, got "
                f'{self.jacobian_weight} and {self.control_weight}; for values alone use formulation="l2".'
            )

    @property
    def term_weight(self) -> float:
        return max(self.jacobian_weight, self.control_weight or 0.0)

    def weights(self, samples: Samples) -> np.ndarray:
        if samples.control_jacobian_energy is None:
            if self.control_weight is not None:
                raise InputError(
                    f"control_weight: the dataset has no control, got {self.control_weight}; leave it out, or generate "
                    "from a model with control=...."
                )
            return super().weights(samples)
        by_control = samples.control_jacobian_energy
        by_parameter = samples.jacobian_energy - by_control
        factor = self.jacobian_weight if self.control_weight is None else self.control_weight
        parts = ((self.jacobian_weight, by_parameter), (factor, by_control))
        ranks = (samples.x.shape[1] - samples.control_rank, samples.control_rank)
        columns = [
            np.outer(w / self.term_weight / floored(E), np.ones(r)) for (w, E), r in zip(parts, ranks, strict=True)
        ]
        return np.concatenate(columns, axis=1)

    def check(self, input_rank: int, output_rank: int) -> None:
        """All directions."""

    def outputs(self, input_rank: int, output_rank: int) -> dict:
        return {"sweep": self.sweep}

    def compare(self, jacobian: np.ndarray, rng: np.random.Generator) -> Compared | None:
        return Compared(jacobian)


@dataclass(frozen=True)
class TruncatedH1(JacobianFormulation):
    """Jacobians on each sample's leading singular vectors, UᵣᵀĴVᵣ against Σᵣ; what lies outside is not seen.

    Parameters
    ----------
    jacobian_weight : float
        w.
    rank : int, optional
        r, of each sample's singular value decomposition; default 20, or all if there are fewer.
    """

    rank: int | None = None

    def _rank(self, input_rank: int, output_rank: int) -> int:
        return min(20, input_rank, output_rank) if self.rank is None else self.rank

    def check(self, input_rank: int, output_rank: int) -> None:
        limit = min(input_rank, output_rank)
        if not 1 <= self._rank(input_rank, output_rank) <= limit:
            raise InputError(
                f"rank: expected 1 .. {limit} singular vectors of a reduced Jacobian {output_rank} x {input_rank}, "
                f"got {self.rank}. Pass TruncatedH1(rank=...) as formulation."
            )

    def outputs(self, input_rank: int, output_rank: int) -> dict:
        rank = self._rank(input_rank, output_rank)
        return {"rows": rank, "columns": rank}

    def compare(self, jacobian: np.ndarray, rng: np.random.Generator) -> Compared | None:
        # of J itself: eigenvectors of J Jᵀ are three times faster, and noise where the spectrum decays below √ε
        left, singular, right = np.linalg.svd(jacobian, full_matrices=False)
        r = self._rank(jacobian.shape[2], jacobian.shape[1])
        return Compared(
            singular[:, :r, None] * np.eye(r, dtype=jacobian.dtype), left[:, :, :r].swapaxes(1, 2), right[:, :r]
        )


@dataclass(frozen=True)
class SketchedH1(JacobianFormulation):
    """Jacobians on random directions, new ones for each sample and batch: the whole loss in expectation.

    The directions of a sample are k rows of C D, C the orthonormal cosine transform and D random signs, so that
    E[(r/k) WᵀW] = I, and all r of them give the whole loss exactly: the randomised trigonometric transform of Halko,
    Martinsson, Tropp, "Finding structure with randomness", SIAM Rev. 53 (2011), section 4.6.

    Parameters
    ----------
    jacobian_weight : float
        w.
    n_directions : int, optional
        k, a sample; default 8, or all if there are fewer.
    sweep : "auto", "reverse" or "forward"
        Directions of the outputs, W J by a reverse sweep, or of the inputs, J Vᵀ by a forward sweep.  A direction
        costs the same, so "auto" takes the side with the smaller rank, of which k directions hold the larger share.
    """

    n_directions: int | None = None
    sweep: str = "auto"
    random: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        _check_sweep(self.sweep)

    def _reverse(self, input_rank: int, output_rank: int) -> bool:
        return self.sweep == "reverse" or (self.sweep == "auto" and output_rank <= input_rank)

    def _count(self, dim: int) -> int:
        return min(8, dim) if self.n_directions is None else self.n_directions

    def check(self, input_rank: int, output_rank: int) -> None:
        reverse = self._reverse(input_rank, output_rank)
        limit, side = (output_rank, "outputs") if reverse else (input_rank, "inputs")
        if not 1 <= self._count(limit) <= limit:
            raise InputError(
                f"n_directions: expected 1 .. {limit}, the rank of the {side}, got {self.n_directions}. "
                "Pass SketchedH1(n_directions=...) as formulation."
            )

    def outputs(self, input_rank: int, output_rank: int) -> dict:
        if self._reverse(input_rank, output_rank):
            return {"rows": self._count(output_rank)}
        return {"columns": self._count(input_rank)}

    def compare(self, jacobian: np.ndarray, rng: np.random.Generator) -> Compared | None:
        n, n_rows, n_columns = jacobian.shape
        reverse = self._reverse(n_columns, n_rows)
        dim = n_rows if reverse else n_columns
        k = self._count(dim)
        chosen = np.argpartition(rng.random((n, dim)), k - 1, axis=1)[:, :k]
        signs = rng.integers(0, 2, (n, 1, dim), dtype=np.int8) * np.int8(2) - np.int8(1)
        directions = _cosine_transform(dim)[chosen].astype(jacobian.dtype) * signs
        scale = dim / k
        if reverse:
            return Compared(directions @ jacobian, rows=directions, scale=scale)
        return Compared(jacobian @ directions.swapaxes(1, 2), columns=directions, scale=scale)


@cache
def _cosine_transform(dim: int) -> np.ndarray:
    """The orthonormal cosine transform, (dim, dim)."""
    return scipy.fft.dct(np.eye(dim), norm="ortho")


FORMULATIONS = {"l2": L2, "h1": H1, "h1_truncated": TruncatedH1, "h1_sketched": SketchedH1}


def get_formulation(formulation: str | Formulation) -> Formulation:
    """The formulation of that name with its defaults, or the one given.

    Raises
    ------
    InputError
        If the name is not known.

    Examples
    --------
    >>> get_formulation("h1").jacobian_weight
    10.0
    """
    if isinstance(formulation, Formulation):
        return formulation
    if formulation not in FORMULATIONS:
        raise InputError(
            f"formulation: expected one of {tuple(FORMULATIONS)}, or an instance of a class of "
            f"hippylib_dino.network.formulations, got {formulation!r}."
        )
    return FORMULATIONS[formulation]()


def formulation_name(formulation: Formulation) -> str:
    """The name of its class in `FORMULATIONS`."""
    return next(name for name, kind in FORMULATIONS.items() if kind is type(formulation))

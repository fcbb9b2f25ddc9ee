"""What the benchmark scripts share: Markdown tables, the machine's name, plain hIPPYlib to compare with."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import hippylib as hp


def table(header: list[str], rows: list[list]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(v) for v in row) + " |" for row in rows])


def trivial(errors: dict[str, float], names: tuple[str, ...] = ("observable", "jacobian")) -> str:
    """What a constant and the map with the mean Jacobian score, from what `DINO.evaluate` gives."""
    scores = []
    for model, what in (("constant", "a constant"), ("affine", "the map with the mean Jacobian")):
        scores.append(f"{what} " + " / ".join(f"{errors[name + '_' + model]:.2%}" for name in names))
    return f"{', '.join(scores)} ({' / '.join(names).replace('_', ' ')})"


def processor() -> str:
    """Model name of the CPU and the number of cores."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def plain_model(model: hp.Model) -> hp.Model:
    """The same problem, prior and misfit with the PDE as hIPPYlib has it."""
    import hippylib as hp  # scripts that only train need no FEniCS

    pde = model.problem
    plain = hp.PDEVariationalProblem(pde.Vh, pde.varf_handler, pde.bc, pde.bc0, is_fwd_linear=pde.is_fwd_linear)
    return hp.Model(plain, model.prior, model.misfit)

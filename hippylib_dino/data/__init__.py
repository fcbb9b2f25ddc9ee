"""Training data: random streams, generation under MPI, the dataset on disk."""

from hippylib_dino.data.dataset import Dataset, Samples
from hippylib_dino.data.report import bias_of_failures, report

__all__ = [
    "Dataset",
    "Samples",
    "SensorWarning",
    "append",
    "bias_of_failures",
    "check_sensors",
    "draw_parameter",
    "generate",
    "report",
]


def __getattr__(name: str):
    """Generation needs dolfin; reading a dataset does not."""
    if name in ("append", "generate"):
        from hippylib_dino.data import generation

        return getattr(generation, name)
    if name in ("SensorWarning", "check_sensors"):
        from hippylib_dino.data import sensors

        return getattr(sensors, name)
    if name == "draw_parameter":
        from hippylib_dino.data.streams import draw_parameter

        return draw_parameter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

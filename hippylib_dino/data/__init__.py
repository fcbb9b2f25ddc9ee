"""Training data: random streams, generation under MPI, the dataset on disk."""

from hippylib_dino.data.dataset import Dataset, Samples

__all__ = ["Dataset", "Samples", "draw_parameter", "generate"]


def __getattr__(name: str):
    """Generation needs dolfin; reading a dataset does not."""
    if name == "generate":
        from hippylib_dino.data.generation import generate

        return generate
    if name == "draw_parameter":
        from hippylib_dino.data.streams import draw_parameter

        return draw_parameter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

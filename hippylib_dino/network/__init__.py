"""The neural operator: layers that carry tangents, training, the trained DINO."""

from hippylib_dino.network.architecture import ReducedDense
from hippylib_dino.network.dino import DINO
from hippylib_dino.network.latent_map import LatentMap

__all__ = ["DINO", "LatentMap", "ReducedDense", "train"]


def __getattr__(name: str):
    """Training needs Keras; loading and evaluating a DINO does not."""
    if name == "train":
        from hippylib_dino.network.training import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

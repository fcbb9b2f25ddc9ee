from applications.reaction_diffusion.model import build

__all__ = ["build"]

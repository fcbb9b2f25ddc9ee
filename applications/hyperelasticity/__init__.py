from applications.hyperelasticity.model import build

__all__ = ["build"]

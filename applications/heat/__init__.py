from applications.heat.model import build

__all__ = ["build"]

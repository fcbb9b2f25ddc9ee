from applications.poisson.script import build

__all__ = ["build"]

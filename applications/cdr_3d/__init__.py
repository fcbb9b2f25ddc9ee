from applications.cdr_3d.model import build

__all__ = ["build"]

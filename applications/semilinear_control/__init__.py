from applications.semilinear_control.model import build

__all__ = ["build"]

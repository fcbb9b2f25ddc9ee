from applications.semilinear_control.model import build, quantity

__all__ = ["build", "quantity"]

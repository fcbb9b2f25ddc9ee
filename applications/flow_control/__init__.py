from applications.flow_control.model import build, quantity

__all__ = ["build", "quantity"]

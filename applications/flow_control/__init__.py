from applications.flow_control.model import build

__all__ = ["build"]

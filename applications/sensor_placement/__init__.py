from applications.sensor_placement.model import build

__all__ = ["build"]

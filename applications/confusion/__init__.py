from applications.confusion.model import build

__all__ = ["build"]

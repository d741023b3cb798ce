"""How the picks are chosen: a method is a small object, and every one stands in the registry by its name."""

from .method import Measured, Method, Moment
from .registry import METHODS

__all__ = ["METHODS", "Measured", "Method", "Moment"]

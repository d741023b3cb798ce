"""What a selection log says, asked in SQL."""

from .open_log import OpenLog

__all__ = ["OpenLog"]

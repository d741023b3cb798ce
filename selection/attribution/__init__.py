"""What a selection log says, asked in SQL."""

from selection.attribution.open_log import OpenLog

__all__ = ["OpenLog"]

"""The selection log: every candidate's fate, on disk. Reading it needs no torch."""

from .reader import check_files, read_log
from .schema import DROPPED, QUANTITIES, REJECTED, SCHEMA
from .writer import SelectionLog

__all__ = ["DROPPED", "QUANTITIES", "REJECTED", "SCHEMA", "SelectionLog", "check_files", "read_log"]

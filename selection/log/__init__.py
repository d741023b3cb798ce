"""The selection log: every candidate's fate, on disk. Reading it needs no torch."""

from selection.log.reader import check_files, read_log
from selection.log.schema import DROPPED, QUANTITIES, REJECTED, SCHEMA
from selection.log.writer import SelectionLog

__all__ = ["DROPPED", "QUANTITIES", "REJECTED", "SCHEMA", "SelectionLog", "check_files", "read_log"]

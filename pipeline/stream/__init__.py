"""From a dataset to every step's groups of candidates."""

from .candidates import Candidates, CandidateStream

__all__ = ["CandidateStream", "Candidates"]

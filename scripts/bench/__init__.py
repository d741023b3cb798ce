"""Measures what things cost."""

"""Compares ways of choosing."""

"""Measures a model: its losses on held-out splits, or its answers to the questions of an evaluation."""

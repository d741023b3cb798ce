"""Entry points: prepare, train, report."""

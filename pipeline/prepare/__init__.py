"""From documents to a dataset folder."""

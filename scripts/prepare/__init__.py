"""Makes a dataset folder."""

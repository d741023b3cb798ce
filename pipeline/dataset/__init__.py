"""The dataset folder, read."""

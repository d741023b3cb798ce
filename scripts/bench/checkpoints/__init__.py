"""What is measured on the checkpoints of a run: its stages, rollouts from them, the ceiling of predictions."""

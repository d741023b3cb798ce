"""Conversations as documents: with loss on what the assistant says, and nowhere else."""

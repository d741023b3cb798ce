"""Text to shards to groups of candidates; knows nothing of models."""

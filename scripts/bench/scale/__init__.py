"""What a step costs on many ranks: measured on those that this machine bears, counted and projected beyond."""

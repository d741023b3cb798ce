"""GPT-2 and what trains it; knows nothing of selection."""

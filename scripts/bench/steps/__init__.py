"""What a step costs, mode by mode, and how faithful its scores are."""

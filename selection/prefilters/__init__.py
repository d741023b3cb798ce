"""What chooses before the model runs."""

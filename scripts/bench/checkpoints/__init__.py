"""What is measured on the checkpoints of a run: predictors, the batches of a criterion, and what the two stand on."""

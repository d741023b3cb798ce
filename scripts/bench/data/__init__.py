"""What reading and preparing the data cost, and what the selection log does."""

"""Trains a model and chooses what it trains on."""

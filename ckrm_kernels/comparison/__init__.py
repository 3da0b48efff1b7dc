"""Trained networks compared: quality with tests, cost, time and redundancy."""

"""Shrinking trained networks: filters removed, weights kept, no training needed, every removal proved."""

"""Fewer layers, or layers that wait for each other less."""

"""Mixtures of experts: whole experts left out or merged, and dense networks made into mixtures."""

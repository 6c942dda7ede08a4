"""Fewer channels, neurons and heads."""

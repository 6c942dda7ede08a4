"""Regauge rewrites a trained network into an equal one that quantizes and runs better, and proves the equality."""

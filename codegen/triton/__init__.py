"""Kernels in Triton. Importing a module here imports triton; nothing outside does it unasked."""

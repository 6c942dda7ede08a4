"""The target ``compressed-tensors``: a Hugging Face checkpoint with linear layers in codes."""

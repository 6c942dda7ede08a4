"""ExecuTorch: a graph as an exported program with codes, for phones and microcontrollers' NPUs."""

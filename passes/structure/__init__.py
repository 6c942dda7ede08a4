"""Make the network itself smaller: channels, heads, layers and weights that are left out."""

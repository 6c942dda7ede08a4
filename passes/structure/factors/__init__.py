"""Linear maps of fewer parameters: products, and parts that are shared."""

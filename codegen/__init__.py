"""Generated kernels live here; there are none yet."""

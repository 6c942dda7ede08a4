"""One element of the symmetry group at each site, chosen and folded into the weights."""

"""Networks in flax.nnx; masks and positions are arrays to them."""

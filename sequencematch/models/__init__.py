"""Networks in flax.nnx. Masks and positions are arrays to them: they know nothing of edits."""

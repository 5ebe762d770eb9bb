"""The mathematics of one trajectory: arrays in, arrays out. Callers batch with `jax.vmap`."""

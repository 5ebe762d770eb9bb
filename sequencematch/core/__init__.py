"""The mathematics: one trajectory, arrays in, arrays out; batching is `jax.vmap`, outside."""

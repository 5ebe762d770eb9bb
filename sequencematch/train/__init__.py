"""Learning: Algorithm 1 of the paper, its optimiser, its state, its loop."""

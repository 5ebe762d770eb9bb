"""Samples from the current policy, and the replay buffer that stores them."""

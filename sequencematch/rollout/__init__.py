"""How a policy acts: samples to learn from and their replay buffer, and answers by way of decoding."""

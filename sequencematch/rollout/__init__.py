"""Experience: sampling from the current policy, and the buffer that keeps the samples."""

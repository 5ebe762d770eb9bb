"""The commands: each one checks and opens everything first, then returns a job."""

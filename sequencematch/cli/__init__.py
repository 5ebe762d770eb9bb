"""What each command does: it checks and opens everything first, then returns a job."""

"""Answers to test questions, how good they are, and the report of a run."""

"""Models in the form of the Hugging Face world: read, and written back, by one table a family."""

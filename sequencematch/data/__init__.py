"""Examples, host side: what a task is, where its texts come from, batches of them."""

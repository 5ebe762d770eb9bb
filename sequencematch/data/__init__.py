"""Tasks, tokenizer, noise and batches: everything that is made on the host."""

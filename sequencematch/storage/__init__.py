"""Files on disk and lines for people: it handles text and arrays, and knows nothing of training."""

"""What lies on disk and what people read: it knows text and arrays, and no run."""

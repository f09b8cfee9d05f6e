"""Models that read a text in one pass: embeddings and classes."""

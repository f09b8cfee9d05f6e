"""Answering many requests with few calls of a model that answers whole batches."""

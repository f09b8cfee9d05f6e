"""The Transformers runtime's engine: continuous batching over a Hugging Face model."""

"""The vLLM runtime's engine: what lies between our words and vLLM's."""

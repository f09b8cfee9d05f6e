"""How custom PyTorch models are loaded, fed and batched. Imported in engine processes only."""

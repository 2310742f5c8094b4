"""Modules and their configs: attention, norms, residual branches, blocks, embeddings, heads."""

"""Checkpoints: key maps, safe reading, atomic writing, run directories and training states."""

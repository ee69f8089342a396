"""Save, publish, verify and restore checkpoints."""

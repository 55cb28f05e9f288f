"""What runs in a cell's interpreter: an arm, its supervisor, what is imported before, checkpoints."""

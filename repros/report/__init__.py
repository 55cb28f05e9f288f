"""Results -> terminal and Markdown. Reads records, and nothing else."""

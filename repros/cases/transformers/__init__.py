"""Cases on reports to transformers."""

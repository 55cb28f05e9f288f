"""Cases on reports to bitsandbytes."""

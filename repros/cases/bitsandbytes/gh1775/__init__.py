"""bitsandbytes#1775."""

"""bitsandbytes#1549."""

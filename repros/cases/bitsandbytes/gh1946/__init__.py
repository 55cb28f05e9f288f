"""bitsandbytes#1946."""

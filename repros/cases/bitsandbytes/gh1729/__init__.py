"""bitsandbytes#1729."""

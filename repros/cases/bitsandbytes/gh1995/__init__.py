"""bitsandbytes#1995."""

"""bitsandbytes#1569."""

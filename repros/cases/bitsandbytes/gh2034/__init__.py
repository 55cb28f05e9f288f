"""bitsandbytes#2034."""

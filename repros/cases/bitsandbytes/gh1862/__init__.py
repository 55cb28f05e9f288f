"""bitsandbytes#1862."""

"""Reports of accelerate."""

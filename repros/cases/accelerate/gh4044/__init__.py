"""accelerate#4044."""

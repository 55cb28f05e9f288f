"""Loading in 4 bits reserves about twice as much memory with transformers 5 as with 4.57.5."""

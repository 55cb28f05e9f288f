"""Loading in 4 bits is said to keep the 16-bit source of every weight alive."""

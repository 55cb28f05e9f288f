"""What this host has, and whose turn it is on a card."""

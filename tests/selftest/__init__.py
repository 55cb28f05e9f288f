"""Cases that try the harness itself."""

"""What happened to bytes and numbers while an arm ran."""

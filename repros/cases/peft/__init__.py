"""Reports on peft."""

"""What goes to an upstream thread: the witness, a comment ready to paste, and the evidence behind it."""

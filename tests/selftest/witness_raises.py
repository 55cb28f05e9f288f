raise ValueError("a fault of the witness")

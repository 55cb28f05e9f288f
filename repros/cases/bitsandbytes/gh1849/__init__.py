"""With transformers 5 the experts of a mixture stay in 16 bits when the model is loaded in 4 or 8 bits."""

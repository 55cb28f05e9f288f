"""bitsandbytes#1935: the dequantized 16-bit weight of a frozen layer is said to be saved for backward."""

"""A load in 4 bits with transformers 5 runs out of memory: the 16-bit model is on the device before it is quantized."""

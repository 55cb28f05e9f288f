"""A 4-bit checkpoint does not load where a parameter's weight and its quantization state lie in different shards."""

"""bitsandbytes#2005: the cache of parametrized weights outlives a checkpointed step."""

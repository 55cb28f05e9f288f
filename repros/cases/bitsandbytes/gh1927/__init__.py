"""bitsandbytes#1927: int8 layers break under gradient checkpointing and on the meta device, says the report."""

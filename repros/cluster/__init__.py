"""Trials and probes on the workers of a dask.distributed cluster, in place of this process."""

"""Load a checkpoint once and quantize it to nf4, in a cell: ``python -m tests.benchmarks.load_once HOW FOLDER``.

Prints seconds and the peak of live storages (every thread's) as JSON. ``transformers`` is upstream's own load,
``reference`` the streaming loader with an allowance of 2 MiB and two readers; both keep a tensor in the end for each
parameter of the model.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

ALLOWANCE_BYTES = 2 << 20


def main() -> None:
    """Load and print."""
    how, folder = sys.argv[1:]
    import torch

    from repros.meters.ledger import Ledger

    load = {"transformers": by_transformers, "reference": by_reference}[how](folder)
    ledger = Ledger()
    with ledger.open():
        ledger.start()
        ledger.enter("load")
        began = time.perf_counter()
        kept = load()
        seconds = time.perf_counter() - began
        final = ledger.live_bytes
    assert kept is not None and torch.is_grad_enabled()
    print(json.dumps({"seconds": seconds, "peak_bytes": ledger.peak_live_bytes, "final_bytes": final}))


def by_transformers(folder: str) -> Any:
    """Return upstream's load, with everything imported."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )  # fmt: skip
    options: dict[str, Any] = {"device_map": {"": "cpu"}, "dtype": torch.bfloat16}
    return lambda: AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, **options)


def by_reference(folder: str) -> Any:
    """Return the streaming loader's load: linear weights quantized while reading, the rest copied."""
    from repros.reference.blockwise import quantize_4bit
    from repros.reference.loader import StreamingLoader

    def convert(name: str, tensor: Any) -> Any:
        linear = name.endswith("proj.weight")
        return quantize_4bit(tensor) if linear else tensor.clone()

    return lambda: StreamingLoader(folder, convert, prefetch_bytes=ALLOWANCE_BYTES, threads=2).load()


if __name__ == "__main__":
    main()

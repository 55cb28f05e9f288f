"""What the cases of transformers#44387 declare alike, and what is recommended beside the switch."""

import gc
from typing import Any

from repros.case import Remedy
from repros.cases._loading import load_installed

REPORT: dict[str, Any] = {
    "report": "transformers#44387",
    "title": "Increased CUDA reserved memory in transformers 5.x under int4 quantization",
    "kind": "issue",
    "status": "closed, fix named: #44576",
    "severity": "memory",
    "fix": "transformers#44576",
    "also": ("transformers#43032",),
}

COLLECT = Remedy(
    "call `gc.collect()` once it is loaded", arm="remedy_collect", recommended="discuss.huggingface.co/t/173278"
)


def remedy_collect(c, checkpoint):
    found = yield from load_installed(c, checkpoint)
    gc.collect()
    return found

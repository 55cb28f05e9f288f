"""What the cases of transformers#44387 declare alike."""

from typing import Any

REPORT: dict[str, Any] = {
    "report": "transformers#44387",
    "title": "Increased CUDA reserved memory in transformers 5.x under int4 quantization",
    "kind": "issue",
    "status": "closed, fix named: #44576",
    "severity": "memory",
    "fix": "transformers#44576",
    "also": ("transformers#43032",),
}

"""What the cases of bitsandbytes#1849 declare alike."""

from typing import Any

REPORT: dict[str, Any] = {
    "report": "bitsandbytes#1849",
    "title": "Failed to quant MoE models with fused expert weights in transformers v5",
    "kind": "issue",
    "status": "open",
    "severity": "memory",
}

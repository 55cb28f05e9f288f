"""The fix that bitsandbytes#1935 proposes."""

from __future__ import annotations

from typing import Any

PROPOSES = "call F.linear under torch.no_grad() in MatMul4Bit.forward and MatMul8bitLt.forward"


def apply_fix() -> None:
    """Patch the installed functions as the report proposes: what their forward calls runs under `torch.no_grad()`."""
    global torch  # Dynamo of torch 2.9 finds no_grad through a module, not through a closure
    import torch
    from bitsandbytes.autograd import _functions

    def guarded(forward: Any) -> Any:
        def run(*arguments: Any, **named: Any) -> Any:
            with torch.no_grad():
                return forward(*arguments, **named)

        return staticmethod(run)

    for name in ("MatMul4Bit", "MatMul8bitLt", "MatMul8bitFp"):
        if function := getattr(_functions, name, None):
            function.forward = guarded(function.forward)

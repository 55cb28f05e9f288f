"""bitsandbytes' 4-bit layer, and the fix that the report proposes."""

from repros.cases import _saved_weight
from repros.cases._saved_weight import PROPOSES
from repros.cases._saved_weight import without_grad as apply_fix

__all__ = ["PROPOSES", "apply_fix", "installed_layer"]


def installed_layer(weight):
    """Return bitsandbytes' layer of a 16-bit weight ``[out, in]``, quantized where the weight lies."""
    return _saved_weight.installed_layer(weight, {"quant": "nf4", "double": False, "device": weight.device.type})

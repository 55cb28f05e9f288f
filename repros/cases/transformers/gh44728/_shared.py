"""What the cases of this report share: the planted bug, and the fix that the report proposes."""

from __future__ import annotations

import itertools

from repros.cases._loading import load_installed
from repros.worker.sizes import is_quantized

PROPOSES = "in Bnb4bitQuantize.convert: take the target device, `del value`, `input_dict.clear()`, then `.to()`"
#: Largest error of a weight over its largest magnitude: half of the widest gap between two NF4 values (-1 and -0.696),
#: and two roundings to bfloat16.
NF4_ERROR = 0.152 + 2 * 2.0**-8


def keep_every(nth, loader):
    """Load one source at a time, and keep every nth of those that are quantized for good."""
    kept, count = [], itertools.count()

    def release(name, source):
        if is_quantized(name, tuple(source.shape)) and next(count) % nth == 0:
            kept.append(source)

    loader.prefetch_bytes, loader.release = 0, release
    return {**loader.load(), "kept": kept}


def load_with_proposed_fix(c, checkpoint):
    """Load with the installed packages, the report's ``convert`` in place of theirs."""
    from bitsandbytes.nn import Params4bit
    from transformers.integrations import bitsandbytes as integration
    from transformers.quantizers.quantizers_utils import get_module_from_name

    def convert(self, input_dict, full_layer_name=None, model=None, **kwargs):
        (value,) = input_dict.values()
        value = value[0] if isinstance(value, list) else value
        module, _ = get_module_from_name(model, full_layer_name)
        old_value = model.get_parameter_or_buffer(full_layer_name)
        new_value = Params4bit(value, requires_grad=False, **old_value.__dict__)
        target_device = value.device
        del value
        input_dict.clear()
        new_value = new_value.to(target_device)
        module._is_hf_initialized = True
        return {full_layer_name: new_value}

    integration.Bnb4bitQuantize.convert = convert
    return load_installed(c, checkpoint)

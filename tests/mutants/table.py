"""The mutants: what bug, in which file, which text gives way to which.

A hand-made list and not a tool's: the bugs are those that quantization, autograd and loaders really have (wrong
rounding, stale scale, dropped outlier column, saved dequantized weight, lost version check, unbounded prefetch), and a
tool's generic swaps of operators raise at import or in the first call.
"""

# ruff: noqa: E501 - a text that is looked for is not cut in two
from __future__ import annotations

from dataclasses import dataclass

#: What is tried for a mutant of each file, the quick ones first.
TESTS = {
    "blockwise": ("reference/test_blockwise.py", "properties/test_numbers.py", "properties/test_memory.py"),
    "chunks": ("reference/test_blockwise.py", "properties/test_numbers.py"),
    "codebook": ("reference/test_codebook.py", "reference/test_blockwise.py", "properties/test_numbers.py"),
    "int8": ("reference/test_int8.py", "properties/test_numbers.py"),
    "ops": ("reference/test_linear.py", "properties/test_gradients.py", "properties/test_memory.py"),
    "linear": ("reference/test_linear.py", "properties/test_gradients.py"),
    "base": ("reference/test_modules.py",),
    "modules": ("reference/test_modules.py", "properties/test_memory.py"),
    "checkpoint": ("reference/test_loader.py", "properties/test_loader.py"),
    "loader": ("reference/test_loader.py", "reference/test_card_loader.py", "properties/test_loader.py"),
    "prefetch": ("reference/test_loader.py", "reference/test_card_loader.py", "properties/test_loader.py"),
    "converter": ("reference/test_converter.py", "reference/test_card_loader.py"),
    "formats": ("reference/test_formats.py",),
}


@dataclass(frozen=True)
class Mutant:
    """``swaps``: pairs of texts; the first of each occurs exactly once in ``repros/reference/<file>.py``."""

    file: str
    bug: str
    swaps: tuple[tuple[str, str], ...]
    #: Why the tests cannot notice it, for one that is expected to survive.
    survives: str = ""


def m(file: str, bug: str, search: str, replace: str, *more: tuple[str, str], survives: str = "") -> Mutant:
    """Return a mutant."""
    return Mutant(file, bug, ((search, replace), *more), survives)


MUTANTS = (
    # -- rounding, packing, scales
    m("blockwise", "ties go to the larger value", "halfway, out_int32=True)", "halfway, out_int32=True, right=True)"),
    m("blockwise", "ties go to the larger value, by parts", "above = values > ends", "above = values >= ends"),
    m("blockwise", "points in a part count as below it", 'device="cpu"), parts)', 'device="cpu"), parts, right=True)'),
    m("blockwise", "NaN takes the smallest value", "nan_to_num_(1.0)", "nan_to_num_(-1.0)"),
    m("blockwise", "every table is looked up by parts", "(parts.diff() > 0).all()", "True"),
    m("blockwise", "halfway points are off", "(ranked[:-1] + ranked[1:]) / 2", "(ranked[:-1] + ranked[1:]) / 2 + 1e-4"),
    m("blockwise", "values round down", "(ranked[:-1] + ranked[1:]) / 2, order", "ranked[1:], order"),
    m("blockwise", "nibbles packed low first", "(pairs[:, 0] << 4) | pairs[:, 1]", "(pairs[:, 1] << 4) | pairs[:, 0]"),
    m(
        "blockwise",
        "nibbles read low first",
        "torch.cartesian_prod(q.code, q.code)",
        "torch.cartesian_prod(q.code, q.code).flip(1)",
    ),
    m("blockwise", "absmax without abs", "blocks.abs().amax(dim=1)", "blocks.amax(dim=1)"),
    m("blockwise", "absmax is the mean magnitude", "blocks.abs().amax(dim=1)", "blocks.abs().mean(dim=1)"),
    m("blockwise", "small blocks become zero", "_TINY = 1e-38", "_TINY = 1e-6"),
    m("blockwise", "offset of nested scales not added", "* spread + nested.offset", "* spread"),
    m("blockwise", "offset of nested scales not taken off", "_encode(absmax - offset,", "_encode(absmax,"),
    m("blockwise", "nested blocks of another size", "NESTED_BLOCKSIZE = 256", "NESTED_BLOCKSIZE = 128"),
    m(
        "blockwise",
        "stale scale: every chunk reads the first one's",
        "scales = absmax[start // q.blocksize : -(stop // -q.blocksize)]",
        "scales = absmax[: -((stop - start) // -q.blocksize)]",
    ),
    m(
        "blockwise",
        "swapped absmax: neighbours change places",
        "scales[:blocks, None]",
        "scales[:blocks, None].flip(0)",
    ),
    m(
        "blockwise",
        "a cut block has the scale of the first one",
        "values[whole:] * scales[blocks:]",
        "values[whole:] * scales[:1]",
    ),
    m("chunks", "a chunk that is no multiple of the block", "_CHUNK = 1 << 20", "_CHUNK = (1 << 20) - 32"),
    m(
        "blockwise",
        "a cut block is multiplied by the reciprocal",
        "    if flat.numel() % blocksize:\n        # bitsandbytes'",
        "    if False:\n        # bitsandbytes'",
    ),
    m("blockwise", "full blocks are divided", "normalized = blocks * (1.0 / divisor)", "normalized = blocks / divisor"),
    m(
        "blockwise",
        "value and scale rounded before their product",
        "torch.mul(values[:whole].view(-1, blocksize), scales[:blocks, None],",
        "torch.mul(values[:whole].view(-1, blocksize).to(out.dtype), scales[:blocks, None].to(out.dtype),",
    ),
    m("blockwise", "the dtype asked for is ignored", "dtype=dtype or q.dtype", "dtype=q.dtype"),
    m(
        "blockwise",
        "tensors() leaves out the nested level",
        "return (self.packed, self.absmax, *nested)",
        "return (self.packed, self.absmax)",
    ),
    m("blockwise", "block size 32 refused", "BLOCKSIZES = (32, 64,", "BLOCKSIZES = (64,"),
    m(
        "blockwise",
        "no mean of an empty weight",
        "absmax.mean() if absmax.numel() else absmax.new_zeros(())",
        "absmax.mean()",
    ),
    m("blockwise", "scales keep the graph of the weight", "flat = w.detach().reshape(-1)", "flat = w.reshape(-1)"),
    m("blockwise", "float64 is let through", "if w.dtype not in FLOAT_DTYPES:", "if False:"),
    m("blockwise", "padded codes stay alive", "codes[: absmax.numel()].clone()", "codes[: absmax.numel()]"),
    m(
        "blockwise",
        "scales in the weight's dtype",
        "absmax = blocks.abs().amax(dim=1)",
        "absmax = blocks.abs().amax(dim=1).half().float()",
    ),
    m(
        "blockwise",
        "no clamp to [-1, 1]",
        "normalized.clamp_(-1.0, 1.0).view(-1)",
        "normalized.view(-1)",
        survives="equivalent: whatever lies beyond the last halfway point has the last code; the clamp is upstream's",
    ),
    m("codebook", "a constant of NF4 rounded", "-0.09105003625154495", "-0.09105"),
    m("codebook", "a constant of NF4 wrong", "0.7229568362236023", "0.7229"),
    m(
        "codebook",
        "FP4 in order of magnitude",
        "(0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)",
        "(0.0, 0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)",
    ),
    m("codebook", "FP4 has a negative zero", "tuple(0.0 - value for", "tuple(-value for"),
    m("codebook", "FP4 not scaled to one", "return table / 12.0", "return table / 8.0"),
    m("codebook", "a decade missing in the dynamic type", "for decade in range(7)", "for decade in range(6)"),
    m("codebook", "fractions at the edges of their intervals", "((edges[:-1] + edges[1:]) / 2)", "edges[1:]"),
    # -- int8
    m(
        "int8",
        "codes are truncated",
        "rows.mul_(factor.unsqueeze(1)).round_()",
        "rows.mul_(factor.unsqueeze(1)).trunc_()",
    ),
    m("int8", "128 codes", "127.0 / scale[part]", "128.0 / scale[part]"),
    m("int8", "a float32 weight is scaled in place", "[part].to(torch.float32, copy=True)", "[part].float()"),
    m("int8", "scale without abs", "scale[part] = rows.abs().amax(dim=1)", "scale[part] = rows.amax(dim=1)"),
    m("int8", "scale of the whole weight", "scale[part] = rows.abs().amax(dim=1)", "scale[part] = rows.abs().amax()"),
    m("int8", "dequantized by 128", "factor = (scale / 127.0)", "factor = (scale / 128.0)"),
    m(
        "int8",
        "dropped outlier columns",
        "        out += outliers @ dequantize_rowwise(codes[:, columns], scale).t()\n",
        "",
    ),
    m("int8", "outliers counted twice", "rows = rows.index_fill(1, columns, 0.0)", "rows = rows.clone()"),
    m("int8", "threshold is exclusive", "(rows.abs() >= threshold)", "(rows.abs() > threshold)"),
    m("int8", "a column is an outlier only as a whole", "threshold).any(dim=0)", "threshold).all(dim=0)"),
    m("int8", "negative outliers are missed", "(rows.abs() >= threshold)", "(rows >= threshold)"),
    m("int8", "sums beyond 2**24 round", "_EXACT = 1024", "_EXACT = 1 << 20"),
    m(
        "int8",
        "sums overflow int16",
        "codes[:, part].float().t()).to(torch.int32)",
        "codes[:, part].float().t()).to(torch.int16)",
    ),
    m("int8", "one 127 forgotten", "scale.unsqueeze(0) / 127.0**2)", "scale.unsqueeze(0) / 127.0)"),
    m("int8", "the product forgets the bias", "    if bias is not None:\n        out += bias\n", ""),
    m(
        "int8",
        "bfloat16 goes through float16",
        "rows = x.reshape(-1, x.shape[-1])",
        "rows = x.reshape(-1, x.shape[-1]).half()",
    ),
    m("int8", "one row of each part is left out", "slice(start, start + step)", "slice(start, start + step - 1)"),
    m("int8", "one scale for all activations", "row_scale.unsqueeze(1) *", "row_scale.max() *"),
    m(
        "int8",
        "the double quantization of bitsandbytes#1927",
        "row_codes, row_scale = quantize_rowwise(rows)",
        "row_codes, row_scale = quantize_rowwise(rows)\n    scale = codes.abs().amax(dim=1).float()",
    ),
    m(
        "int8",
        "a row of zeros divides by zero",
        "torch.where(scale[part] > 0, 127.0 / scale[part], 0.0)",
        "127.0 / scale[part]",
        survives="0 * inf is NaN, whose cast to int8 C leaves undefined and x86 makes 0, the right code",
    ),
    # -- operators
    m(
        "ops",
        "the input is saved",
        "ctx.save_for_backward(packed, absmax, nested_absmax, nested_offset)",
        "ctx.save_for_backward(packed, absmax, nested_absmax, nested_offset)\n    ctx.x = inputs[0] * 1",
    ),
    m(
        "ops",
        "saved dequantized weight",
        "ctx.save_for_backward(packed, absmax, nested_absmax, nested_offset)",
        "ctx.save_for_backward(packed, absmax, nested_absmax, nested_offset)\n    ctx.kept = _dequantize(torch.float32, inputs[2:])",
    ),
    m(
        "ops",
        "copies of the codes are saved",
        "ctx.save_for_backward(codes, scale)",
        "ctx.save_for_backward(codes.clone(), scale)",
    ),
    m(
        "ops",
        "lost version check, 8 bits",
        "ctx.save_for_backward(codes, scale)",
        "ctx.kept = (codes, scale)",
        ("linear_8bit_grad(grad, *ctx.saved_tensors)", "linear_8bit_grad(grad, *ctx.kept)"),
    ),
    m(
        "ops",
        "lost version check, 4 bits",
        "ctx.save_for_backward(packed, absmax, nested_absmax, nested_offset)",
        "ctx.kept = (packed, absmax, nested_absmax, nested_offset)",
        ("linear_4bit_grad(grad, *ctx.saved_tensors,", "linear_4bit_grad(grad, *ctx.kept,"),
    ),
    m(
        "ops",
        "gradient by codes without their scale",
        "dequantize_rowwise(codes, scale, grad.dtype)",
        "codes.to(grad.dtype)",
    ),
    m(
        "ops",
        "gradient by the first row's scale",
        "dequantize_rowwise(codes, scale, grad.dtype)",
        "dequantize_rowwise(codes, scale[:1].expand_as(scale), grad.dtype)",
    ),
    m("ops", "bias gradient is the mean", "grad.shape[-1]).sum(dim=0)", "grad.shape[-1]).mean(dim=0)"),
    m(
        "ops",
        "no bias gradient for a frozen input",
        "if ctx.needs_input_grad[1] else None",
        "if all(ctx.needs_input_grad[:2]) else None",
    ),
    m(
        "ops",
        "autocast inside the operator",
        "torch.autocast(x.device.type, enabled=False)",
        "torch.autocast(x.device.type, dtype=torch.bfloat16)",
    ),
    m(
        "ops",
        "weight rounded to bfloat16",
        "linear(x, _dequantize(x.dtype, weight), bias)",
        "linear(x, _dequantize(torch.bfloat16, weight).to(x.dtype), bias)",
    ),
    m(
        "ops",
        "gradient's weight rounded to bfloat16",
        "grad @ _dequantize(grad.dtype, weight)",
        "grad @ _dequantize(torch.bfloat16, weight).to(grad.dtype)",
    ),
    m(
        "ops",
        "the fake forgets a dimension",
        "x.new_empty((*x.shape[:-1], features))",
        "x.new_empty((x.shape[0], features))",
    ),
    m(
        "ops",
        "the operator forgets the threshold",
        "matmul_int8(x, codes, scale, bias, threshold)",
        "matmul_int8(x, codes, scale, bias, 0.0)",
    ),
    m(
        "ops",
        "the forward forgets the bias",
        "linear(x, _dequantize(x.dtype, weight), bias)",
        "linear(x, _dequantize(x.dtype, weight))",
    ),
    m(
        "ops",
        "the nested level is forgotten",
        "nested = None if nested_absmax is None else",
        "nested = None if True else",
    ),
    m(
        "ops",
        "a second derivative of zero",
        "    ).register_autograd(_autograd_8bit, setup_context=_setup_8bit)\n",
        "    ).register_autograd(lambda ctx, g: tuple(t if t is None else t.detach() for t in _autograd_8bit(ctx, g.detach())), setup_context=_setup_8bit)\n",
    ),
    m(
        "linear",
        "autocast does not decide the dtype",
        "        x = x.to(torch.get_autocast_dtype(x.device.type))\n",
        "        pass\n",
    ),
    m("linear", "a bias of any shape", "if bias is not None and tuple(bias.shape) != shape[:1]:", "if False:"),
    m("linear", "an input of any width", "if x.dim() == 0 or x.shape[-1] != shape[1]:", "if False:"),
    m(
        "linear",
        "the nested level is not passed on",
        "(q.nested.absmax, q.nested.offset) if q.nested else (None, None)",
        "(None, None)",
    ),
    # -- layers
    m(
        "base",
        "a cast reaches codes and scale",
        "if kept is not None and moved is not None and moved.dtype != kept.dtype:",
        "if False:",
    ),
    m("base", "the bias shares its storage", "bias.detach().clone()", "bias.detach()"),
    m("base", "the bias always trains", "requires_grad=bias.requires_grad", "requires_grad=True"),
    m("base", "meta tensors are multiplied", "if tensor is not None and tensor.is_meta:", "if False:"),
    m(
        "modules",
        "a layer has the name of one of bitsandbytes",
        "class FrozenLinear8bit(QuantizedLinear):",
        'FrozenLinear4bit.__name__ = "Linear4bit"\n\n\nclass FrozenLinear8bit(QuantizedLinear):',
    ),
    m("modules", "the scale is no buffer", 'self.register_buffer("scale", scale)', "self.scale = scale"),
    m(
        "modules",
        "a part is not saved",
        "self.register_buffer(name, tensor)",
        'self.register_buffer(name, tensor, persistent=name != "nested_offset")',
    ),
    m(
        "modules",
        "the threshold is lost",
        'bias=False, threshold=threshold, device="meta")',
        'bias=False, device="meta")',
    ),
    m(
        "modules",
        "the 8-bit layer forgets its bias",
        "self.codes, self.scale, self.bias, self.threshold",
        "self.codes, self.scale, None, self.threshold",
    ),
    m(
        "modules",
        "the type is lost",
        "self.quant_type, self.blocksize, self.weight_dtype = q.quant_type,",
        'self.quant_type, self.blocksize, self.weight_dtype = "nf4",',
    ),
    m(
        "modules",
        "the layer keeps its weight",
        "return cls.from_quantized(*quantize_rowwise(weight), bias, threshold=threshold)",
        "layer = cls.from_quantized(*quantize_rowwise(weight), bias, threshold=threshold)\n        layer.source = weight\n        return layer",
    ),
    # -- loader
    m("checkpoint", "a file's size is not looked at", "    if position != size:\n", "    if False:\n"),
    m("checkpoint", "gaps and overlaps are let through", "if entry.offset != position or prod", "if prod"),
    m(
        "checkpoint",
        "a shape of another size is let through",
        "if entry.offset != position or prod(entry.shape) * entry.dtype.itemsize != entry.nbytes:",
        "if entry.offset != position:",
    ),
    m("checkpoint", "an index may name what is not there", "    if absent:\n", "    if False:\n"),
    m("checkpoint", "an index may leave its folder", " and Path(shard).name == shard for shard", " for shard"),
    m(
        "checkpoint",
        "bytes read from the wrong place",
        "_entry(path, 8 + length, name, value)",
        "_entry(path, length, name, value)",
    ),
    m(
        "checkpoint",
        "a header longer than the file",
        "if not 2 <= length <= min(size - 8, _HEADER_LIMIT_BYTES):",
        "if not 2 <= length:",
    ),
    m("checkpoint", "a tensor of another shard wins", "        if places.get(entry.name) == shard\n", ""),
    m("prefetch", "unbounded prefetch", "return self._out_bytes + self._todo[0].nbytes <= self._limit", "return True"),
    m("prefetch", "twice the allowance", "nbytes <= self._limit", "nbytes <= 2 * self._limit"),
    m(
        "prefetch",
        "the allowance is never used",
        "return self._out_bytes + self._todo[0].nbytes <= self._limit",
        "return False",
    ),
    m(
        "prefetch",
        "the next tensor does not count",
        "self._out_bytes + self._todo[0].nbytes <= self._limit",
        "self._out_bytes <= self._limit",
    ),
    m(
        "prefetch",
        "a large tensor waits for ever",
        "self._limit is None or self._out_bytes == 0:",
        "self._limit is None:",
    ),
    m("prefetch", "a reader keeps its last source", "            del item  #", "            pass  #"),
    m(
        "prefetch",
        "readers go on after a failure",
        "                if self._closed or not self._todo:\n",
        "                if not self._todo:\n",
    ),
    m(
        "prefetch",
        "a failed read is nobody's",
        "        if isinstance(item, BaseException):\n            raise item\n",
        "",
    ),
    m(
        "loader",
        "sources are kept past their conversion",
        "self.release(entry.name, tensor)",
        "self.release(entry.name, tensor)\n                self.__dict__.setdefault('seen', []).append(tensor)",
    ),
    m(
        "loader",
        "the allowance comes back too early",
        "                entry, tensor = ahead.take()\n",
        "                entry, tensor = ahead.take()\n                ahead.give_back(entry)\n",
        ("                ahead.give_back(entry)\n        return kept", "        return kept"),
    ),
    m(
        "loader",
        "the source outlives its allowance",
        "                del tensor  # before",
        "                pass  # before",
    ),
    m(
        "loader",
        "a cut file gives what is there",
        "            if not count:\n                raise CheckpointError(",
        "            if not count:\n                break\n                raise CheckpointError(",
    ),
    m(
        "loader",
        "a second read starts at the front",
        "file.readinto(buffer[done:])",
        "file.readinto(buffer[: tensor.nbytes - done])",
    ),
    m(
        "loader",
        "each stage fills the front of the tensor",
        "target[start : start + part.numel()].copy_(part)",
        "target[: part.numel()].copy_(part)",
    ),
    m("loader", "tensors in the order of arrival", "dict.fromkeys(entry.name for entry in self.entries)", "{}"),
    # -- loader for cards
    m(
        "loader",
        "parts cut what shares a scale",
        "step = max(1, self.part_elements // unit) * unit",
        "step = self.part_elements",
    ),
    m(
        "loader",
        "every part is the first of its tensor",
        "file.seek(part.entry.offset + skipped)",
        "file.seek(part.entry.offset)",
    ),
    m("loader", "a buffer is used once", "self._buffers.put((buffer, copied))", "self._buffers"),
    m(
        "loader",
        "the host's memory has no bound",
        "Prefetcher(parts, self._read_part, self.prefetch_bytes,",
        "Prefetcher(parts, self._read_part, None,",
    ),
    m("loader", "planted bugs see no sources", "if self._sources_are_seen():", "if False:"),
    m("loader", "nothing goes over in parts", "if self._sources_are_seen():", "if True:"),
    m("loader", "all on the first card", "(self.device_of(e), convert", "(self.device, convert"),
    m(
        "converter",
        "a part's scales in the wrong place",
        "scales[mine] = _quantize",
        "scales[: mine.stop - mine.start] = _quantize",
    ),
    m("converter", "a part is quantized before it is cast", "non_blocking=True).to(self.dtype)", "non_blocking=True)"),
    m(
        "converter",
        "what stays has the source's dtype",
        "return ((shape, self.dtype),)",
        "return ((shape, torch.float32),)",
    ),
    m(
        "converter",
        "tensors that are kept overlap",
        "* dtype.itemsize // -ALIGNMENT) * ALIGNMENT",
        "// -ALIGNMENT) * ALIGNMENT",
    ),
    m(
        "converter",
        "quantized before it is cast",
        "self._quantize(source.to(self.dtype), self",
        "self._quantize(source, self",
    ),
    m(
        "converter",
        "what has its dtype is never copied",
        "source.to(self.dtype, copy=self.copy)",
        "source.to(self.dtype)",
    ),
    m(
        "converter",
        "what is not quantized is not cast",
        "source.to(self.dtype, copy=self.copy)",
        "source.clone() if self.copy else source",
    ),
    m(
        "converter",
        "int8 codes are read as 4 bits",
        'if self.scheme == "int8":\n            return',
        "if False:\n            return",
    ),
    m("converter", "every matrix is quantized", "if self.quantizes(name, shape):", "if source.dim() == 2:"),
    m("converter", "blocks of another size", "BLOCKSIZE = 64", "BLOCKSIZE = 128"),
    m("converter", "restored in 16 bits", '"nf4", BLOCKSIZE)).float()', '"nf4", BLOCKSIZE))'),
    # -- formats, the oracle of a chain, and layers with the bug on purpose
    m(
        "formats",
        "fp4 is nf4",
        "quantize_4bit(weight, self.quant_type, double=self.double)",
        "quantize_4bit(weight, double=self.double)",
    ),
    m(
        "formats",
        "double scales are single",
        "quantize_4bit(weight, self.quant_type, double=self.double)",
        "quantize_4bit(weight, self.quant_type)",
    ),
    m(
        "formats",
        "the threshold is lost",
        "linear_8bit(x, codes, scale, threshold=self.threshold)",
        "linear_8bit(x, codes, scale)",
    ),
    m(
        "formats",
        "int8 weights come back in float32",
        "dequantize_rowwise(codes, scale, dtype)",
        "dequantize_rowwise(codes, scale)",
    ),
    m(
        "formats",
        "4-bit weights come back in their own dtype",
        "dequantize_4bit(quantized, dtype)",
        "dequantize_4bit(quantized)",
    ),
    m(
        "formats",
        "the right layer saves its weight",
        "partial(how.multiply, quantized=how.quantize(weight)) for weight in weights",
        "(lambda x, q=how.quantize(weight): torch_linear(x, how.dequantize(q, x.dtype))) for weight in weights",
        (
            "Multiply = Callable",
            "torch_linear = lambda *a: __import__('torch').nn.functional.linear(*a)\nMultiply = Callable",
        ),
    ),
    m(
        "formats",
        "the planted layer saves nothing",
        "weight: Tensor = op(codes, which, x.dtype)",
        "return how.multiply(x, quantized[which])\n        weight: Tensor = op(codes, which, x.dtype)",
    ),
    m(
        "formats",
        "every planted layer has the first one's weight",
        "how.dequantize(quantized[which], dtype)",
        "how.dequantize(quantized[0], dtype).resize_(weights[which].shape)",
    ),
    m("formats", "the cache keeps the last weight alone", "cache[which] = weight", "cache[0] = weight"),
    m(
        "formats",
        "the planted module keeps its weight unasked",
        "self.cache = weight if cache else None",
        "self.cache = weight",
    ),
    m(
        "formats",
        "the planted module saves nothing",
        "return torch.nn.functional.linear(x, weight)\n\n    return SavesItsWeight",
        "return super().forward(x)\n\n    return SavesItsWeight",
    ),
    m(
        "formats",
        "the oracle's weights are rounded",
        "how.dequantize(how.quantize(weight), torch.float64)",
        "how.dequantize(how.quantize(weight), torch.bfloat16).double()",
    ),
    m(
        "formats",
        "the oracle takes the weights before they were quantized",
        "how.dequantize(how.quantize(weight), torch.float64)",
        "weight.double()",
    ),
    m(
        "formats",
        "the oracle goes back from the first layer",
        "for weight in reversed(weights):",
        "for weight in weights:",
    ),
    m(
        "formats",
        "the oracle of the gradient starts from ones",
        "x.detach().double(), grad.double()",
        "x.detach().double(), torch.ones_like(grad.double())",
    ),
    m(
        "formats",
        "a chain runs from its end",
        "lambda y, multiply: multiply(y), each, x)",
        "lambda y, multiply: multiply(y), each[::-1], x)",
    ),
)

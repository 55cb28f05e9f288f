"""What a user who is hit by bitsandbytes#2034 can do today."""

from repros.case import Remedy

REENTRANT = Remedy("checkpoint with `use_reentrant=True`", params={"reentrant": True})
OWN_BUFFER = Remedy(
    "give each layer a buffer of its own", params={"buffer": lambda layer, turn: layer}, recommended="the report"
)
LINEAR = Remedy(
    "in place of the layer, multiply by `dequantize_4bit(weight, quant_state)` with torch's `linear`",
    "remedy_dequantize",
    recommended="MakazhanAlpamys/Soup#331",
)


def remedy_dequantize(c, **inputs):
    from bitsandbytes.functional import dequantize_4bit
    from torch.nn.functional import linear

    from repros.cases.bitsandbytes.gh2034._layers import installed, train

    def dequantizing(c, weight):
        layer, tensors = installed(c, weight)
        return lambda x: linear(x, dequantize_4bit(tensors[0], layer.weight.quant_state)), tensors

    return train(c, **inputs, make=dequantizing)

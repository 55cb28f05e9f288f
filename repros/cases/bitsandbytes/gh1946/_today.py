"""What a user of bitsandbytes#1946 can do today, and what does not help."""

from repros.case import Remedy

TODAY = (Remedy("build each weight of the state dict by `Params4bit.from_prequantized`", arm="remedy_prequantized"),)
LOOSE = Remedy("load with `strict=False`", params={"strict": False})


def remedy_prequantized(c, x, saved, other):
    from bitsandbytes.nn import Params4bit

    from repros.cases.bitsandbytes.gh1946.state_dict import installed_layer

    state, layer = installed_layer(c, saved).state_dict(), installed_layer(c, other)
    yield "load"
    codes, stats = state["weight"], {name: one for name, one in state.items() if name != "weight"}
    layer.weight = Params4bit.from_prequantized(codes, stats, requires_grad=False, device=c.device)
    return {"output": layer(x)}

# /// script
# dependencies = ["torch", "bitsandbytes>=0.46", "accelerate", "numpy"]
# ///
"""accelerate#4044: offload hooks that are taken off do not bring the scale of an int8 weight back.

    uv run minimal.py      10 s, on a GPU if there is one; exit code 0 good, 1 bad, 125 skip (could not tell)

Figure: scales of one weight that are lost, or on the meta device, once the hooks are off. Limit: 0.
"""

import sys


def main():
    import accelerate
    import bitsandbytes as bnb
    import torch
    from accelerate.hooks import remove_hook_from_module

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def lost(offload):
        layer = bnb.nn.Linear8bitLt(64, 32, bias=False, has_fp16_weights=False)
        layer.weight = bnb.nn.Int8Params(torch.randn(32, 64).half(), requires_grad=False).to(device)
        model = torch.nn.Sequential(layer)
        offload(model)
        remove_hook_from_module(model, recurse=True)
        scale = model[0].weight.SCB
        return int(scale is None or scale.device.type == "meta")

    figure = lost(lambda model: accelerate.cpu_offload(model, execution_device=device))
    inside, over = lost(lambda model: None), lost(lambda model: setattr(model[0].weight, "SCB", None))
    print(f"accelerate {accelerate.__version__}, bitsandbytes {bnb.__version__} ({device}): {figure} of 1, limit 0")
    print(f"controls: {inside} that was never offloaded, {over} whose scale was taken away")
    if inside or not over:
        return "skip: a control failed"
    return "bad: the scale does not come back" if figure else "good: the scale comes back with its weight"


if __name__ == "__main__":
    try:
        vote = main()
    except Exception as error:
        vote = " ".join(f"skip: {type(error).__name__}: {error}".split())
    print(vote)
    sys.exit({"good": 0, "bad": 1, "skip": 125}[vote.partition(":")[0]])

"""fp4: it raises TorchRuntimeError: RuntimeError when making fake tensor call, where the reference goe.

Found by the hunt in tf4.57.5-bnb0.49.2, as the shortest life that shows it:

    [kind=fp4] eval → lora → step(mode=compiled)

RuntimeError when making fake tensor call   Explanation: Dynamo failed to run FX node with fake tensors:
call_function bitsandbytes.gemv_4bit.default(*(FakeTensor(..., size=(2, 8, 64), requires_grad=True),
Parameter(FakeTensor(..., size=(32, 32), dtype=torch.uint8)), (32, 64), FakeTensor(..., size=(1, 32),
dtype=torch.bfloat16), FakeTensor(..., size=(16,)), 64), **{}): got RuntimeError('A must be a vector with
leading dimensions of 1, got torch.Size([2, 8, 64])')   Hint: Your code may result in

Budget: `repros.hunt.arms.error_limit`, from code steps and the epsilon of the dtype.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import error_limit, oracle, planted, prepare, reference, subject

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]

LIFE = {"spec": {"kind": "fp4"}, "steps": [["eval", {}], ["lora", {}], ["step", {"mode": "compiled"}]]}

CASE = Case(
    package="bitsandbytes",
    number=0,
    title='fp4: it raises TorchRuntimeError: RuntimeError when making fake tensor call, where the reference goe',
    kind="finding of the hunt",
    status="not reported",
    claims=(Claim('it raises TorchRuntimeError: RuntimeError when making fake tensor call, where the reference goes on'),),
    conditions=(Condition("life", {"life": LIFE, "what": 'raises TorchRuntimeError: RuntimeError when making fake tensor call'}),),
    budget=Budget('error', error_limit),
    numbers=error_limit,
    symptoms=(Symptom('TorchRuntimeError', 'RuntimeError\\ when\\ making\\ fake\\ tensor\\ call'),),
    affected=(
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.2.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
    ),
    url="",
)

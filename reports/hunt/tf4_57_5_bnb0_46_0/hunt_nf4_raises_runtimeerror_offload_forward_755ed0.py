"""nf4: it raises RuntimeError: Blockwise Nbit quantization only supports N/N-bit floats, but got torch.

Found by the hunt in tf4.57.5-bnb0.46.0, as the shortest life that shows it:

    [kind=nf4] offload → forward

Blockwise 4bit quantization only supports 16/32-bit floats, but got torch.uint8

Budget: `repros.hunt.arms.error_limit`, from code steps and the epsilon of the dtype.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import error_limit, oracle, planted, prepare, reference, subject

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]

LIFE = {"spec": {"kind": "nf4"}, "steps": [["offload", {}], ["forward", {}]]}

CASE = Case(
    package="bitsandbytes",
    number=1664,
    title='nf4: it raises RuntimeError: Blockwise Nbit quantization only supports N/N-bit floats, but got torch',
    kind="finding of the hunt",
    status="known",
    claims=(Claim('it raises RuntimeError: Blockwise Nbit quantization only supports N/N-bit floats, but got torch.uintN, where the reference goes on'),),
    conditions=(Condition("life", {"life": LIFE, "what": 'raises RuntimeError: Blockwise 4bit quantization only supports 16/32-bit floats, but got torch.uint8'}),),
    budget=Budget('error', error_limit),
    numbers=error_limit,
    symptoms=(Symptom('RuntimeError', 'Blockwise\\ 4bit\\ quantization\\ only\\ supports\\ 16/32\\-bit\\ floats,\\ but\\ got\\ torch\\.uint8'),),
    affected=(
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.46.0', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
    ),
    url="https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1664",
)

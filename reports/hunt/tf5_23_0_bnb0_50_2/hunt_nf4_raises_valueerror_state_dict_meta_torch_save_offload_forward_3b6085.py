"""nf4: it raises ValueError: quant_state is required, where the reference goes on.

Found by the hunt in tf5.23.0-bnb0.50.2, as the shortest life that shows it:

    [kind=nf4] state_dict_meta → torch_save → offload → forward

quant_state is required

Budget: `repros.hunt.arms.error_limit`, from code steps and the epsilon of the dtype.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import error_limit, oracle, planted, prepare, reference, subject

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]

LIFE = {"spec": {"kind": "nf4"}, "steps": [["state_dict_meta", {}], ["torch_save", {}], ["offload", {}], ["forward", {}]]}

CASE = Case(
    package="bitsandbytes",
    number=0,
    title='nf4: it raises ValueError: quant_state is required, where the reference goes on',
    kind="finding of the hunt",
    status="not reported",
    claims=(Claim('it raises ValueError: quant_state is required, where the reference goes on'),),
    conditions=(Condition("life", {"life": LIFE, "what": 'raises ValueError: quant_state is required'}),),
    budget=Budget('error', error_limit),
    numbers=error_limit,
    symptoms=(Symptom('ValueError', 'quant_state\\ is\\ required'),),
    affected=(
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.50.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_50_2'),
    ),
    url="",
)

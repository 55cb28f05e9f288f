"""fp4: it raises ValueError: Expected packed or unpacked quant_state items, found neither, where the r.

Found by the hunt in tf4.57.5-bnb0.49.2, as the shortest life that shows it:

    [kind=fp4] pickle → deepcopy → state_dict

Expected packed or unpacked quant_state items, found neither

Budget: `repros.hunt.arms.error_limit`, from code steps and the epsilon of the dtype.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import error_limit, oracle, planted, prepare, reference, subject

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]

LIFE = {"spec": {"kind": "fp4"}, "steps": [["pickle", {}], ["deepcopy", {}], ["state_dict", {}]]}

CASE = Case(
    package="bitsandbytes",
    number=0,
    title='fp4: it raises ValueError: Expected packed or unpacked quant_state items, found neither, where the r',
    kind="finding of the hunt",
    status="not reported",
    claims=(Claim('it raises ValueError: Expected packed or unpacked quant_state items, found neither, where the reference goes on'),),
    conditions=(Condition("life", {"life": LIFE, "what": 'raises ValueError: Expected packed or unpacked quant_state items, found neither'}),),
    budget=Budget('error', error_limit),
    numbers=error_limit,
    symptoms=(Symptom('ValueError', 'Expected\\ packed\\ or\\ unpacked\\ quant_state\\ items,\\ found\\ neither'),),
    affected=(
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.47.0', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.2.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.50.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
    ),
    url="",
)

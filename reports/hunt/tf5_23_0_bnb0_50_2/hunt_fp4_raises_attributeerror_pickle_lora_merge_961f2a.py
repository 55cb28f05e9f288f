"""fp4: it raises AttributeError: 'QuantState' object has no attribute 'SCB', where the reference goes .

Found by the hunt in tf5.23.0-bnb0.50.2, as the shortest life that shows it:

    [kind=fp4] pickle → lora_merge

'QuantState' object has no attribute 'SCB'

Budget: `repros.hunt.arms.error_limit`, from code steps and the epsilon of the dtype.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import error_limit, oracle, planted, prepare, reference, subject

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]

LIFE = {"spec": {"kind": "fp4"}, "steps": [["pickle", {}], ["lora_merge", {}]]}

CASE = Case(
    package="bitsandbytes",
    number=0,
    title="fp4: it raises AttributeError: 'QuantState' object has no attribute 'SCB', where the reference goes ",
    kind="finding of the hunt",
    status="not reported",
    claims=(Claim("it raises AttributeError: 'QuantState' object has no attribute 'SCB', where the reference goes on"),),
    conditions=(Condition("life", {"life": LIFE, "what": "raises AttributeError: 'QuantState' object has no attribute 'SCB'"}),),
    budget=Budget('error', error_limit),
    numbers=error_limit,
    symptoms=(Symptom('AttributeError', "'QuantState'\\ object\\ has\\ no\\ attribute\\ 'SCB'"),),
    affected=(
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.47.0', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_50_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_50_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.2.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_50_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_50_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.50.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_50_2'),
    ),
    url="",
)

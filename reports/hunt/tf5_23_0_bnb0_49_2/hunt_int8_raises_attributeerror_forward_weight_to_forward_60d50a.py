"""int8: it raises AttributeError: 'NoneType' object has no attribute 'unsqueeze', where the reference .

Found by the hunt in tf5.23.0-bnb0.49.2, as the shortest life that shows it:

    [defaults] forward → weight_to → forward

'NoneType' object has no attribute 'unsqueeze'

Budget: `repros.hunt.arms.error_limit`, from code steps and the epsilon of the dtype.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import error_limit, oracle, planted, prepare, reference, subject

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]

LIFE = {"spec": {}, "steps": [["forward", {}], ["weight_to", {}], ["forward", {}]]}

CASE = Case(
    package="bitsandbytes",
    number=1927,
    title="int8: it raises AttributeError: 'NoneType' object has no attribute 'unsqueeze', where the reference ",
    kind="finding of the hunt",
    status="known",
    claims=(Claim("it raises AttributeError: 'NoneType' object has no attribute 'unsqueeze', where the reference goes on"),),
    conditions=(Condition("life", {"life": LIFE, "what": "raises AttributeError: 'NoneType' object has no attribute 'unsqueeze'"}),),
    budget=Budget('error', error_limit),
    numbers=error_limit,
    symptoms=(Symptom('AttributeError', "'NoneType'\\ object\\ has\\ no\\ attribute\\ 'unsqueeze'"),),
    affected=(
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.2.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.50.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_49_2'),
    ),
    url="https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1927",
)

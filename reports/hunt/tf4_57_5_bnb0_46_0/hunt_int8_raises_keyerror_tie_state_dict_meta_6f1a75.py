"""int8: it raises KeyError: 'SCB', where the reference goes on.

Found by the hunt in tf4.57.5-bnb0.46.0, as the shortest life that shows it:

    [defaults] tie → state_dict_meta

'SCB'

Budget: `repros.hunt.arms.error_limit`, from code steps and the epsilon of the dtype.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import error_limit, oracle, planted, prepare, reference, subject

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]

LIFE = {"spec": {}, "steps": [["tie", {}], ["state_dict_meta", {}]]}

CASE = Case(
    package="bitsandbytes",
    number=1927,
    title="int8: it raises KeyError: 'SCB', where the reference goes on",
    kind="finding of the hunt",
    status="known",
    claims=(Claim("it raises KeyError: 'SCB', where the reference goes on"),),
    conditions=(Condition("life", {"life": LIFE, "what": "raises KeyError: 'SCB'"}),),
    budget=Budget('error', error_limit),
    numbers=error_limit,
    symptoms=(Symptom('KeyError', "'SCB'"),),
    affected=(
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.46.0', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.47.0', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.2.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.50.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
    ),
    url="https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1927",
)

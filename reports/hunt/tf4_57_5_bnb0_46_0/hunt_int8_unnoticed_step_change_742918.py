"""int8: codes changed in place between forward and backward go unnoticed, where a dense layer raises.

Found by the hunt in tf4.57.5-bnb0.46.0, as the shortest life that shows it:

    [defaults] step(between=change)

codes changed in place between forward and backward: a dense layer raises

Budget: a change is noticed (0) or not (1).
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import error_limit, oracle, planted, prepare, reference, subject

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]

LIFE = {"spec": {}, "steps": [["step", {"between": "change"}]]}

CASE = Case(
    package="bitsandbytes",
    number=2034,
    title='int8: codes changed in place between forward and backward go unnoticed, where a dense layer raises',
    kind="finding of the hunt",
    status="known",
    claims=(Claim('codes changed in place between forward and backward go unnoticed, where a dense layer raises'),),
    conditions=(Condition("life", {"life": LIFE, "what": 'unnoticed'}),),
    budget=Budget('unnoticed', lambda p: 0.5),
    numbers=error_limit,
    symptoms=(),
    affected=(
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.46.0', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.47.0', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.2.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.50.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
    ),
    url="https://github.com/bitsandbytes-foundation/bitsandbytes/issues/2034",
)

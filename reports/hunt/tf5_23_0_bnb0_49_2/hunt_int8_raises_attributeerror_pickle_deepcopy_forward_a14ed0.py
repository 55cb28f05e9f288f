"""int8: it raises AttributeError: 'Parameter' object has no attribute 'CB', where the reference goes o.

Found by the hunt in tf5.23.0-bnb0.49.2, as the shortest life that shows it:

    [defaults] pickle → deepcopy → forward

'Parameter' object has no attribute 'CB'

Budget: `repros.hunt.arms.error_limit`, from code steps and the epsilon of the dtype.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import error_limit, oracle, planted, prepare, reference, subject

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]

LIFE = {"spec": {}, "steps": [["pickle", {}], ["deepcopy", {}], ["forward", {}]]}

CASE = Case(
    package="bitsandbytes",
    number=0,
    title="int8: it raises AttributeError: 'Parameter' object has no attribute 'CB', where the reference goes o",
    kind="finding of the hunt",
    status="not reported",
    claims=(Claim("it raises AttributeError: 'Parameter' object has no attribute 'CB', where the reference goes on"),),
    conditions=(Condition("life", {"life": LIFE, "what": "raises AttributeError: 'Parameter' object has no attribute 'CB'"}),),
    budget=Budget('error', error_limit),
    numbers=error_limit,
    symptoms=(Symptom('AttributeError', "'Parameter'\\ object\\ has\\ no\\ attribute\\ 'CB'"),),
    affected=(
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.46.0', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.47.0', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.2.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.50.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_49_2'),
    ),
    url="",
)

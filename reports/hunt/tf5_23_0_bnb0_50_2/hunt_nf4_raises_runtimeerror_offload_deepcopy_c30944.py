"""nf4: it raises RuntimeError: Attempted to call `variable.set_data(tensor)`, but `variable` and `tens.

Found by the hunt in tf5.23.0-bnb0.50.2, as the shortest life that shows it:

    [kind=nf4] offload → deepcopy

Attempted to call `variable.set_data(tensor)`, but `variable` and `tensor` have incompatible tensor type.

Budget: `repros.hunt.arms.error_limit`, from code steps and the epsilon of the dtype.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import error_limit, oracle, planted, prepare, reference, subject

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]

LIFE = {"spec": {"kind": "nf4"}, "steps": [["offload", {}], ["deepcopy", {}]]}

CASE = Case(
    package="bitsandbytes",
    number=0,
    title='nf4: it raises RuntimeError: Attempted to call `variable.set_data(tensor)`, but `variable` and `tens',
    kind="finding of the hunt",
    status="not reported",
    claims=(Claim('it raises RuntimeError: Attempted to call `variable.set_data(tensor)`, but `variable` and `tensor` have incompatible tensor type., where the reference goes on'),),
    conditions=(Condition("life", {"life": LIFE, "what": 'raises RuntimeError: Attempted to call `variable.set_data(tensor)`, but `variable` and `tensor` have incompatible tensor '}),),
    budget=Budget('error', error_limit),
    numbers=error_limit,
    symptoms=(Symptom('RuntimeError', 'Attempted\\ to\\ call\\ `variable\\.set_data\\(tensor\\)`,\\ but\\ `variable`\\ and\\ `tensor`\\ have\\ incompatible\\ tensor\\ '),),
    affected=(
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.46.0', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_50_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.47.0', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_50_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_50_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.2.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_50_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_50_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.50.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_23_0_bnb0_50_2'),
    ),
    url="",
)

"""fp4: it raises RuntimeError: shape '[N, N]' is invalid for input of size N, where the reference goes.

Found by the hunt in tf4.57.5-bnb0.49.2, as the shortest life that shows it:

    [kind=fp4, in=96] eval → forward

shape '[32, 1]' is invalid for input of size 48

Budget: `repros.hunt.arms.error_limit`, from code steps and the epsilon of the dtype.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import error_limit, oracle, planted, prepare, reference, subject

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]

LIFE = {"spec": {"kind": "fp4", "in": 96}, "steps": [["eval", {}], ["forward", {}]]}

CASE = Case(
    package="bitsandbytes",
    number=0,
    title="fp4: it raises RuntimeError: shape '[N, N]' is invalid for input of size N, where the reference goes",
    kind="finding of the hunt",
    status="not reported",
    claims=(Claim("it raises RuntimeError: shape '[N, N]' is invalid for input of size N, where the reference goes on"),),
    conditions=(Condition("life", {"life": LIFE, "what": "raises RuntimeError: shape '[32, 1]' is invalid for input of size 48"}),),
    budget=Budget('error', error_limit),
    numbers=error_limit,
    symptoms=(Symptom('RuntimeError', "shape\\ '\\[32,\\ 1\\]'\\ is\\ invalid\\ for\\ input\\ of\\ size\\ 48"),),
    affected=(
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.2.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.50.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
    ),
    url="",
)

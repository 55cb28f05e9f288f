"""fp4: the output is wrong, and nothing says so.

Found by the hunt in tf5.2.0-bnb0.49.2, as the shortest life that shows it:

    [kind=fp4, blocksize=128] forward

relative error 0.479, at most 0.0234 is right, the reference's is 2.53e-07

Budget: `repros.hunt.arms.error_limit`, from code steps and the epsilon of the dtype.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import error_limit, oracle, planted, prepare, reference, subject

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]

LIFE = {"spec": {"kind": "fp4", "blocksize": 128}, "steps": [["forward", {}]]}

CASE = Case(
    package="bitsandbytes",
    number=0,
    title='fp4: the output is wrong, and nothing says so',
    kind="finding of the hunt",
    status="not reported",
    claims=(Claim('the output is wrong, and nothing says so'),),
    conditions=(Condition("life", {"life": LIFE, "what": 'output'}),),
    budget=Budget('error', error_limit),
    numbers=error_limit,
    symptoms=(),
    affected=(
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_2_0_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.2.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_2_0_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_2_0_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.50.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf5_2_0_bnb0_49_2'),
    ),
    url="",
)

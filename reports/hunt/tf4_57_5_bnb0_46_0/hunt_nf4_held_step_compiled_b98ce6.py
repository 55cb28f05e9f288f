"""nf4: more is held from forward to backward than input, output and the packed weight.

Found by the hunt in tf4.57.5-bnb0.46.0, as the shortest life that shows it:

    [kind=nf4] step(mode=compiled)

10240 bytes held for backward, 2048 by the reference

Budget: `repros.hunt.arms.held_limit`, from shapes and dtypes.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import held_limit, error_limit, oracle, planted, prepare, reference, subject

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]

LIFE = {"spec": {"kind": "nf4"}, "steps": [["step", {"mode": "compiled"}]]}

CASE = Case(
    package="bitsandbytes",
    number=1935,
    title='nf4: more is held from forward to backward than input, output and the packed weight',
    kind="finding of the hunt",
    status="known",
    claims=(Claim('more is held from forward to backward than input, output and the packed weight'),),
    conditions=(Condition("life", {"life": LIFE, "what": 'held'}),),
    budget=Budget('held_bytes', held_limit),
    numbers=error_limit,
    symptoms=(),
    affected=(
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.46.0', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.47.0', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.2.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_46_0'),
    ),
    url="https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1935",
)

"""int8: it raises TypeError: IntNParams.__new__() got an unexpected keyword argument '_dynamo_static_i.

Found by the hunt in tf4.57.5-bnb0.49.2, as the shortest life that shows it:

    [defaults] offload → step(mode=compiled)

Int8Params.__new__() got an unexpected keyword argument '_dynamo_static_input_type'

Budget: `repros.hunt.arms.error_limit`, from code steps and the epsilon of the dtype.
"""

from repros.case import Affected, Budget, Case, Claim, Condition, Symptom
from repros.hunt.arms import error_limit, oracle, planted, prepare, reference, subject

__all__ = ["CASE", "oracle", "planted", "prepare", "reference", "subject"]

LIFE = {"spec": {}, "steps": [["offload", {}], ["step", {"mode": "compiled"}]]}

CASE = Case(
    package="bitsandbytes",
    number=0,
    title="int8: it raises TypeError: IntNParams.__new__() got an unexpected keyword argument '_dynamo_static_i",
    kind="finding of the hunt",
    status="not reported",
    claims=(Claim("it raises TypeError: IntNParams.__new__() got an unexpected keyword argument '_dynamo_static_input_type', where the reference goes on"),),
    conditions=(Condition("life", {"life": LIFE, "what": "raises TypeError: Int8Params.__new__() got an unexpected keyword argument '_dynamo_static_input_type'"}),),
    budget=Budget('error', error_limit),
    numbers=error_limit,
    symptoms=(Symptom('TypeError', "Int8Params\\.__new__\\(\\)\\ got\\ an\\ unexpected\\ keyword\\ argument\\ '_dynamo_static_input_type'"),),
    affected=(
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.46.0', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.47.0', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==4.57.5', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.2.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
        Affected({'torch': '==2.13.0', 'transformers': '==5.23.0', 'bitsandbytes': '==0.49.2', 'accelerate': '==1.15.0', 'peft': '==0.21.2'}, source='tf4_57_5_bnb0_49_2'),
    ),
    url="",
)

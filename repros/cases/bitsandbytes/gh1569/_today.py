"""Ways to prepare a model for training, and what a user of bitsandbytes#1569 can do today."""

from repros.case import Remedy


def prepare(model, **options):
    from peft import prepare_model_for_kbit_training

    prepare_model_for_kbit_training(model, **{"use_gradient_checkpointing": False, **options})


def prepare_and_checkpoint(model):
    prepare(model, use_gradient_checkpointing=True)


def prepare_and_cast_back(model):
    prepare(model)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.bfloat16()


def leave(model):
    """Do without."""


def autocast(device):
    import torch

    return torch.autocast(device, torch.bfloat16)


TODAY = (
    Remedy("leave `prepare_model_for_kbit_training` out", params={"prepare": leave}, recommended="peft#1149"),
    Remedy("cast the parameters back to bfloat16 after the call", params={"prepare": prepare_and_cast_back}),
    Remedy("leave the call's gradient checkpointing on, in training mode", params={"prepare": prepare_and_checkpoint}),
    Remedy("train in autocast to bfloat16", params={"within": autocast}),
)

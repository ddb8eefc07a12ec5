"""One switch for the numbers that a model decodes with."""

import torch
from transformers import PreTrainedModel

from ..models.int8_linear_custom_seq2seq import Int8Linear, can_be_int8, quantise_linears

PRECISIONS = ("fp32", "bf16", "int8")


def set_decoding_precision(model: PreTrainedModel, precision: str) -> PreTrainedModel:
    """
    Change a loaded model for decoding, in place.

    - `"fp32"`: all weights in float32.
    - `"bf16"`: all weights in bfloat16.
    - `"int8"`: the linear layers of the decoder and the vocabulary projection get weights of 8 bits, one scale an
      output; the rest stays as it is. On the CPU only. Such a model can neither be trained nor saved.

    `docs/quantization.md` has speed and quality of each.

    Args:
        model (`PreTrainedModel`): An encoder-decoder or a decoder alone, in evaluation mode.
        precision (`str`): `"fp32"`, `"bf16"` or `"int8"`.

    Returns:
        `PreTrainedModel`: The same model.

    Raises:
        ValueError: There is no such precision, or `"int8"` and the model is not on the CPU, in training mode,
            split over processes, or too small.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {precision!r}. Choose one of them.")
    if any(isinstance(module, Int8Linear) for module in model.modules()):
        if precision == "int8":
            return model
        raise ValueError('`precision` cannot be changed from "int8", the weights are gone. Load the model again.')
    if precision != "int8":
        model.to(torch.float32 if precision == "fp32" else torch.bfloat16)  # type: ignore[arg-type]
        return model
    if model.device.type != "cpu" or model.training:
        state = "training mode" if model.training else f"device {model.device.type!r}"
        raise ValueError(f'`precision="int8"` is for a model on the CPU in evaluation mode, got {state}. Use "bf16".')
    if (model.tp_size or 1) > 1:
        raise ValueError(
            f'`precision="int8"` is for a whole model, got one that is split over {model.tp_size} processes '
            '(`tp_plan`). Use "bf16", or load the model whole.'
        )
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    if quantise_linears(decoder) == 0 and not can_be_int8(head):
        raise ValueError(
            f'`precision="int8"` found no linear layer of 2^18 weights or more (and inputs a multiple of 32) in '
            f'{type(decoder).__name__}: it would gain nothing. Use "fp32".'
        )
    if can_be_int8(head):
        model.set_output_embeddings(Int8Linear(head))
    return model

"""`torch.nn.RNN`, `torch.nn.GRU` and `torch.nn.LSTM` as our recurrent encoder and decoder, and back."""

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from ..models.cells_custom_seq2seq import RecurrentCell
from ..models.configuration_recurrent_decoder import RecurrentDecoderConfig
from ..models.configuration_recurrent_encoder import RecurrentEncoderConfig
from ..models.modeling_recurrent_decoder import RecurrentDecoderModel
from ..models.modeling_recurrent_encoder import RecurrentEncoderModel
from .weights import load_weights

Side = Literal["encoder", "decoder"]

CELL_TYPES: dict[type[nn.Module], str] = {nn.RNN: "rnn", nn.GRU: "gru", nn.LSTM: "lstm"}
BESIDE_THE_STACK = ("embed_tokens.", "attention.", "attentional_layer.", "readout.")
"""Parts of our models that torch's modules do not have; they keep their fresh values."""

_NAME = re.compile(r"(weight|bias)_(ih|hh)_l(\d+)(_reverse)?")
_MODULES = {"ih": "input_proj", "hh": "recurrent_proj"}


def torch_recurrent_fields(source: nn.RNNBase, side: Side) -> dict[str, Any]:
    """
    Fields of our config that one of torch's recurrent modules decides: cell, sizes, directions and dropout.

    torch applies its dropout to the output of every layer but the last; ours acts on the embeddings and on the last
    layer too.

    Args:
        source (`nn.RNN`, `nn.GRU` or `nn.LSTM`).
        side (`str`): `"encoder"` or `"decoder"`.

    Returns:
        `dict[str, Any]`: For [`RecurrentEncoderConfig`] or [`RecurrentDecoderConfig`]; of two directions `hidden_size`
        is the width of both. `vocab_size`, attention and token ids are the caller's.

    Raises:
        TypeError: Another module.
        ValueError: A side of another name, an RNN with ReLU, an LSTM with projections, or two directions in a decoder.

    Example:

    ```python
    >>> from torch import nn
    >>> from hf_custom_decoder import RecurrentEncoderConfig
    >>> from hf_custom_decoder.conversion.torch_recurrent import load_torch_recurrent_encoder, torch_recurrent_fields

    >>> source = nn.GRU(32, 64, num_layers=2, bidirectional=True)
    >>> config = RecurrentEncoderConfig(vocab_size=1000, **torch_recurrent_fields(source, "encoder"))
    >>> encoder = load_torch_recurrent_encoder(source, config)
    ```
    """
    owner = "torch_recurrent_fields"
    if side not in ("encoder", "decoder"):
        raise ValueError(f"{owner}: `side` must be 'encoder' or 'decoder', got {side!r}.")
    if type(source) not in CELL_TYPES:
        raise TypeError(
            f"{owner}: `source` must be an nn.RNN, nn.GRU or nn.LSTM, got {type(source).__name__}. Pass the module "
            "itself, not the model around it and not a cell."
        )
    if isinstance(source, nn.RNN) and source.nonlinearity != "tanh":
        raise ValueError(
            f"{owner}: an nn.RNN must have `nonlinearity='tanh'`, the only one that our cells have, got "
            f"{source.nonlinearity!r}."
        )
    if source.proj_size:
        raise ValueError(
            f"{owner}: an nn.LSTM must have `proj_size=0`, our cells have no projections, got {source.proj_size}."
        )
    if source.bidirectional and side == "decoder":
        raise ValueError(f"{owner}: a decoder reads in one direction, got `bidirectional=True`. Use it as an encoder.")
    fields: dict[str, Any] = {
        "cell_type": CELL_TYPES[type(source)],
        "embedding_size": source.input_size,
        "hidden_size": source.hidden_size * (2 if source.bidirectional else 1),
        "num_hidden_layers": source.num_layers,
        "dropout": source.dropout,
    }
    if side == "encoder":
        fields["bidirectional"] = source.bidirectional
    return fields


def torch_recurrent_weights(tensors: Mapping[str, torch.Tensor], side: Side) -> dict[str, torch.Tensor]:
    """
    Weights of one of torch's recurrent modules, or gradients of them, under our names; gate orders are the same.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): By torch's names (`weight_ih_l0`, `bias_hh_l1_reverse`, ...).
        side (`str`): `"encoder"` or `"decoder"`.

    Returns:
        `dict[str, torch.Tensor]`: The tensors share their memory with the old ones.

    Raises:
        ValueError: A name that these modules do not have.
    """
    return {_new_name(name, side): tensor for name, tensor in tensors.items()}


def _new_name(name: str, side: Side) -> str:
    match = _NAME.fullmatch(name)
    if match is None or (side == "decoder" and match[4]):
        raise ValueError(
            f"torch_recurrent_weights: every weight must be named as in nn.RNN, nn.GRU or nn.LSTM (of one direction "
            f"in a decoder), got {name!r}. Pass the state dict of the module alone, of one without projections."
        )
    parameter, part, layer, reverse = match.groups()
    cell = "cell" if side == "decoder" else "backward_cell" if reverse else "forward_cell"
    return f"layers.{layer}.{cell}.{_MODULES[part]}.{parameter}"


def load_torch_recurrent_encoder(source: nn.RNNBase, config: RecurrentEncoderConfig) -> RecurrentEncoderModel:
    """
    Our encoder with the weights of one of torch's recurrent modules.

    Token embeddings are not part of the source; they are fresh.

    Args:
        source (`nn.RNN`, `nn.GRU` or `nn.LSTM`): Without biases, those of our cells are zero.
        config ([`RecurrentEncoderConfig`]): Agrees with [`torch_recurrent_fields`]; dropouts may differ.

    Returns:
        [`RecurrentEncoderModel`] in evaluation mode, in the dtype and on the device of the source, with a copy of its
        weights.

    Raises:
        TypeError, ValueError: As [`torch_recurrent_fields`]; and a config that does not describe the source.
    """
    owner = "load_torch_recurrent_encoder"
    _check_config(torch_recurrent_fields(source, "encoder"), config, owner)
    model = RecurrentEncoderModel(config)
    load_weights(model, _all_weights(source, "encoder"), owner=owner, fresh=BESIDE_THE_STACK)
    return model


def load_torch_recurrent_decoder(source: nn.RNNBase, config: RecurrentDecoderConfig) -> RecurrentDecoderModel:
    """
    Our decoder with the weights of one of torch's recurrent modules; see [`load_torch_recurrent_encoder`].

    Attention and readout layers that the config asks for are fresh, as the token embeddings are. The result computes
    what the source computes where there are none of them.

    Args:
        source (`nn.RNN`, `nn.GRU` or `nn.LSTM`): In one direction.
        config ([`RecurrentDecoderConfig`]): Agrees with [`torch_recurrent_fields`], without residuals and input
            feeding; dropouts may differ.

    Returns:
        [`RecurrentDecoderModel`] in evaluation mode.

    Raises:
        TypeError, ValueError: As [`torch_recurrent_fields`]; and a config that does not describe the source.
    """
    owner = "load_torch_recurrent_decoder"
    fields = {**torch_recurrent_fields(source, "decoder"), "residual": False, "input_feeding": False}
    _check_config(fields, config, owner)
    model = RecurrentDecoderModel(config)
    load_weights(model, _all_weights(source, "decoder"), owner=owner, fresh=BESIDE_THE_STACK)
    return model


def to_torch_recurrent(model: RecurrentEncoderModel | RecurrentDecoderModel) -> nn.RNNBase:
    """
    The recurrent layers of our encoder or decoder as one of torch's modules.

    Embeddings, attention and readout stay behind.

    Args:
        model ([`RecurrentEncoderModel`] or [`RecurrentDecoderModel`]).

    Returns:
        `nn.RNN`, `nn.GRU` or `nn.LSTM` with `batch_first=True`, in evaluation mode, in the dtype and on the device of
        the model, with a copy of its weights.

    Raises:
        TypeError: Another model.
        ValueError: Residuals or input feeding, which torch's modules do not have, or weights inside an adapter.
    """
    owner = "to_torch_recurrent"
    if not isinstance(model, (RecurrentEncoderModel, RecurrentDecoderModel)):
        raise TypeError(
            f"{owner}: `model` must be a RecurrentEncoderModel or a RecurrentDecoderModel, got "
            f"{type(model).__name__}. Pass `model.get_encoder()` or `model.get_decoder()` of a seq2seq model."
        )
    config: Any = model.config
    side: Side = "encoder" if isinstance(model, RecurrentEncoderModel) else "decoder"
    for name in ("residual", "input_feeding"):
        if getattr(config, name, False):
            raise ValueError(f"{owner}: `config.{name}` must be False, torch's modules have no such thing, got True.")
    wrapped = [name for name, one in model.named_modules() if isinstance(one, RecurrentCell) and not one.is_plain]
    if wrapped:
        raise ValueError(
            f"{owner}: the cells' weights must lie in plain linear layers, those of {wrapped[0]!r} do not. Merge and "
            "unload the adapter first."
        )
    num_directions = config.num_directions if side == "encoder" else 1
    is_deep = config.num_hidden_layers > 1
    module_class: Any = {name: one for one, name in CELL_TYPES.items()}[config.cell_type]
    target: nn.RNNBase = module_class(
        config.input_size,
        config.hidden_size // num_directions,
        num_layers=config.num_hidden_layers,
        dropout=config.dropout if is_deep else 0.0,  # torch warns of one that does nothing
        bidirectional=num_directions == 2,
        batch_first=True,
    )
    own = model.state_dict()
    load_weights(target, {name: own[_new_name(name, side)] for name in target.state_dict()}, owner=owner)
    return target


def _check_config(
    fields: Mapping[str, Any], config: RecurrentEncoderConfig | RecurrentDecoderConfig, owner: str
) -> None:
    """Raise unless the config says what `fields` say, dropout aside."""
    for name, value in fields.items():
        found = config.input_size if name == "embedding_size" else getattr(config, name, None)
        if name != "dropout" and found != value:
            raise ValueError(
                f"{owner}: `config.{name}` must be {value!r} as in the source, got {found!r}. Build the config with "
                "`**torch_recurrent_fields(source, ...)`."
            )


def _all_weights(source: nn.RNNBase, side: Side) -> dict[str, torch.Tensor]:
    """Weights of a torch module under our names; biases that it does not have are zero."""
    tensors = dict(source.state_dict())
    for name, weight in list(tensors.items()):
        tensors.setdefault(name.replace("weight_", "bias_"), weight.new_zeros(weight.shape[0]))
    return torch_recurrent_weights(tensors, side)

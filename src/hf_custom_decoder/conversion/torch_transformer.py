"""`torch.nn.TransformerEncoder` and `torch.nn.TransformerDecoder` as our encoder and decoder."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..models.configuration_transformer_decoder import TransformerDecoderConfig
from ..models.configuration_transformer_encoder import TransformerEncoderConfig
from ..models.modeling_transformer_decoder import TransformerDecoderModel
from ..models.modeling_transformer_encoder import TransformerEncoderModel
from .names import TORCH_DECODER_NAMES, TORCH_ENCODER_NAMES, translate
from .weights import load_weights

BEFORE_THE_STACK = ("embed_tokens.", "embed_positions.", "layernorm_embedding.")
"""Parts of our models that torch's stacks do not have; they keep their fresh values."""

ACTIVATIONS: dict[Callable[..., Any], str] = {
    nn.functional.relu: "relu",
    nn.functional.gelu: "gelu",
    nn.functional.silu: "silu",
}
"""Functions that a torch layer may hold, and their names in transformers."""


def torch_stack_fields(stack: nn.TransformerEncoder | nn.TransformerDecoder) -> dict[str, Any]:
    """
    Fields of our config that a torch stack decides: sizes, norms, activation, biases and dropouts.

    Args:
        stack (`nn.TransformerEncoder` or `nn.TransformerDecoder`).

    Returns:
        `dict[str, Any]`: For [`TransformerEncoderConfig`] or [`TransformerDecoderConfig`]; what the stack does not
        have (`vocab_size`, `position_type`, token ids) is the caller's.

    Raises:
        TypeError: Not a stack of torch's own layers.
        ValueError: An activation without a name in transformers, a final norm of another kind, or several epsilons.

    Example:

    ```python
    >>> from torch import nn
    >>> from hf_custom_decoder import TransformerDecoderConfig
    >>> from hf_custom_decoder.conversion import load_torch_decoder, torch_stack_fields

    >>> stack = nn.TransformerDecoder(nn.TransformerDecoderLayer(64, 4, batch_first=True), num_layers=2)
    >>> fields = torch_stack_fields(stack)
    >>> config = TransformerDecoderConfig(vocab_size=1000, position_type="none", **fields)
    >>> decoder = load_torch_decoder(stack, config)
    ```
    """
    is_decoder = isinstance(stack, nn.TransformerDecoder)
    layer_class = nn.TransformerDecoderLayer if is_decoder else nn.TransformerEncoderLayer
    layers = list(stack.layers)
    if any(type(layer) is not layer_class for layer in layers):
        raise TypeError(
            f"torch_stack_fields: every layer must be an nn.{layer_class.__name__}, got "
            f"{sorted({type(layer).__name__ for layer in layers})}. Convert a stack of torch's own layers."
        )
    if stack.norm is not None and type(stack.norm) is not nn.LayerNorm:
        raise ValueError(
            f"torch_stack_fields: the final `norm` must be None or an nn.LayerNorm, as those of the layers are, got "
            f"{type(stack.norm).__name__}. Convert a stack with one kind of norm."
        )
    norms = [module for module in stack.modules() if isinstance(module, nn.LayerNorm)]
    epsilons = sorted({norm.eps for norm in norms})
    if len(epsilons) > 1:
        raise ValueError(
            f"torch_stack_fields: all norms must share one `eps`, got {epsilons}. Build the final norm with the "
            "layers' `layer_norm_eps`."
        )
    first = layers[0]
    fields: dict[str, Any] = {
        "hidden_size": first.self_attn.embed_dim,
        "num_hidden_layers": len(layers),
        "num_attention_heads": first.self_attn.num_heads,
        "intermediate_size": first.linear1.out_features,
        "hidden_act": _activation_name(first.activation),
        "norm_position": "pre" if first.norm_first else "post",
        "final_norm": stack.norm is not None,
        "norm_eps": epsilons[0],
        "attention_bias": first.self_attn.in_proj_bias is not None,
        "mlp_bias": first.linear1.bias is not None,
        "dropout": first.dropout1.p,
        "attention_dropout": first.self_attn.dropout,
        "activation_dropout": first.dropout.p,
    }
    if is_decoder:
        fields["add_cross_attention"] = True
    return fields


def _activation_name(activation: Any) -> str:
    """The name in transformers of what a torch layer holds as its activation."""
    if isinstance(activation, nn.GELU) and activation.approximate == "tanh":
        return "gelu_pytorch_tanh"
    for module_class, name in ((nn.ReLU, "relu"), (nn.GELU, "gelu"), (nn.SiLU, "silu")):
        if isinstance(activation, module_class):
            return name
    if activation not in ACTIVATIONS:
        raise ValueError(
            "torch_stack_fields: the `activation` of the layers must be ReLU, GELU or SiLU, a function of "
            f"torch.nn.functional or a module, got {activation!r}. Convert a stack with one of these."
        )
    return ACTIVATIONS[activation]


def torch_encoder_weights(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of an `nn.TransformerEncoder`, or gradients of them, under our names; raises as [`translate`] does."""
    return translate(tensors, TORCH_ENCODER_NAMES, owner="nn.TransformerEncoder")


def torch_decoder_weights(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of an `nn.TransformerDecoder`, or gradients of them, under our names; raises as [`translate`] does."""
    return translate(tensors, TORCH_DECODER_NAMES, owner="nn.TransformerDecoder")


def load_torch_encoder(source: nn.TransformerEncoder, config: TransformerEncoderConfig) -> TransformerEncoderModel:
    """
    Our encoder with the weights of torch's.

    torch's stack has no embeddings: those of our model stay fresh, and with `position_type="none"` and
    `inputs_embeds` both give the same output at real tokens. A mask of torch says True for tokens to ignore, ours 1
    for tokens to attend to.

    Args:
        source (`nn.TransformerEncoder`).
        config ([`TransformerEncoderConfig`]): Agrees with [`torch_stack_fields`]; dropouts may differ.

    Returns:
        [`TransformerEncoderModel`] in evaluation mode, in the dtype and on the device of the source, with a copy of
        its weights.

    Raises:
        TypeError: `source` is no `nn.TransformerEncoder`, or has layers of another class.
        ValueError: The config does not describe the source, or our encoder cannot express it.
    """
    owner = "load_torch_encoder"
    if not isinstance(source, nn.TransformerEncoder):
        raise TypeError(
            f"{owner}: `source` must be an nn.TransformerEncoder, got {type(source).__name__}. Pass a stack."
        )
    _check_config(source, config, owner)
    model = TransformerEncoderModel(config)
    _load(model, torch_encoder_weights(source.state_dict()), owner)
    return model


def load_torch_decoder(source: nn.TransformerDecoder, config: TransformerDecoderConfig) -> TransformerDecoderModel:
    """
    Our decoder with the weights of torch's; see [`load_torch_encoder`].

    Args:
        source (`nn.TransformerDecoder`).
        config ([`TransformerDecoderConfig`]): Agrees with [`torch_stack_fields`]; dropouts may differ.

    Returns:
        [`TransformerDecoderModel`] in evaluation mode, in the dtype and on the device of the source, with a copy of
        its weights. It is causal by itself; torch's needs a `tgt_mask` for that.

    Raises:
        TypeError: `source` is no `nn.TransformerDecoder`, or has layers of another class.
        ValueError: The config does not describe the source, or our decoder cannot express it.
    """
    owner = "load_torch_decoder"
    if not isinstance(source, nn.TransformerDecoder):
        raise TypeError(
            f"{owner}: `source` must be an nn.TransformerDecoder, got {type(source).__name__}. Pass a stack."
        )
    _check_config(source, config, owner)
    model = TransformerDecoderModel(config)
    _load(model, torch_decoder_weights(source.state_dict()), owner)
    return model


def _check_config(
    source: nn.TransformerEncoder | nn.TransformerDecoder,
    config: TransformerEncoderConfig | TransformerDecoderConfig,
    owner: str,
) -> None:
    """Raise unless the config describes the source in all that its output depends on."""
    expected = {name: value for name, value in torch_stack_fields(source).items() if not name.endswith("dropout")}
    expected |= {
        "key_value_heads": expected["num_attention_heads"],
        "attention_head_dim": expected["hidden_size"] // expected["num_attention_heads"],
        "gated_mlp": False,
        "norm_type": "layernorm",
        "qk_norm": False,
        "sliding_window": None,
        "final_norm": config.final_norm if expected["final_norm"] == config.has_final_norm else expected["final_norm"],
    }
    for name, value in expected.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"{owner}: `config.{name}` must be {value!r} as in the source, got {getattr(config, name)!r}. Build "
                "the config with `**torch_stack_fields(source)`."
            )
    if config.position_type in ("rotary", "alibi"):
        raise ValueError(
            f"{owner}: `config.position_type` must act before the stack, as torch's layers know no positions, got "
            f"{config.position_type!r}. Use 'sinusoidal', 'learned' or 'none'."
        )


def _load(
    model: TransformerEncoderModel | TransformerDecoderModel, weights: dict[str, torch.Tensor], owner: str
) -> None:
    """Weights of a torch stack into the model; norm biases that the stack does not have are zero."""
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) and f"{name}.weight" in weights:
            weights.setdefault(f"{name}.bias", torch.zeros_like(weights[f"{name}.weight"]))
    load_weights(model, weights, owner=owner, fresh=BEFORE_THE_STACK)

"""What the Transformer encoder and the Transformer decoder have in common in their configs."""

import difflib
import math
from typing import Any, ClassVar

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from .tensor_parallel_custom_seq2seq import StackPlan

CONFIG_FORMAT = 1
"""Version of the config layout this code reads and writes."""

MAX_WIDTH = 2**20
"""Greatest width, and greatest number of heads: some fifty times those of the largest models known."""

MAX_SIZES = {
    "num_hidden_layers": 1024,
    "vocab_size": 2**28,
    "max_position_embeddings": 2**31,
    "sliding_window": 2**31,
}
"""Greatest values of what is no width. A config beyond them is hostile or broken, and refused before a model is laid
out; the deepest Transformers that were published have a thousand layers in all."""

# Names that transformers itself stores in or passes to any config; everything else that is unknown and looks like one
# of our fields is taken for a typing error.
HUB_NAMES = (
    "auto_map",
    "quantization_config",
    "custom_pipelines",
    "base_model_tp_plan",
    "rope_theta",
    "rope_scaling",
)


def check_choice(owner: str, name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise a `ValueError` that lists the choices, unless `value` is one of them."""
    if value not in choices:
        raise ValueError(
            f"{owner}: `{name}` must be one of {list(choices)}, got {value!r}. Choose one of these names."
        )


def check_positive_int(owner: str, name: str, value: Any, *, minimum: int = 1) -> None:
    """Raise unless `value` is a whole number of at least `minimum`, and of at most what `MAX_SIZES` says."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(
            f"{owner}: `{name}` must be a whole number of at least {minimum}, got {value!r}. Set it to one."
        )
    maximum = MAX_SIZES.get(name, MAX_WIDTH)
    if value > maximum:
        raise ValueError(f"{owner}: `{name}` must be at most {maximum:,}, got {value:,}. No such model is built.")


def check_positive_number(owner: str, name: str, value: Any) -> None:
    """Raise unless `value` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{owner}: `{name}` must be a number above 0 and finite, got {value!r}.")


def check_probability(owner: str, name: str, value: Any) -> None:
    """Raise unless `value` is a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < 1.0:
        raise ValueError(
            f"{owner}: `{name}` must be a probability in [0, 1), got {value!r}. Use 0.0 to switch it off."
        )


def check_flag(owner: str, name: str, value: Any) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{owner}: `{name}` must be True or False, got {value!r}.")


def check_token_id(owner: str, name: str, value: Any, vocab_size: int) -> None:
    """Raise unless `value` is None or an id inside the vocabulary; `eos_token_id` may be a list of ids."""
    ids = value if name == "eos_token_id" and isinstance(value, (list, tuple)) else [value]
    for token_id in ids:
        if token_id is None:
            continue
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < vocab_size:
            raise ValueError(
                f"{owner}: `{name}` must be None or lie in [0, vocab_size={vocab_size}), got {value!r}. "
                f"Set `{name}` to the id the tokenizer uses, or enlarge `vocab_size`."
            )


def check_format(owner: str, config_format: Any) -> None:
    """Refuse a config that a newer version of this code has written."""
    if isinstance(config_format, bool) or not isinstance(config_format, int) or config_format > CONFIG_FORMAT:
        raise ValueError(
            f"{owner}: `config_format` is {config_format!r}, this code reads formats up to {CONFIG_FORMAT}. The "
            "config was written by a newer version: upgrade hf_custom_decoder, or load the checkpoint with the code "
            "it carries (`trust_remote_code=True`)."
        )


def check_names(owner: str, kwargs: dict[str, Any], known: set[str], refused: dict[str, str] | None = None) -> None:
    """
    Refuse an unknown argument that is close to a known one (a typing error would be swallowed otherwise), and those
    that `refused` names with what to do instead.
    """
    for name in kwargs:
        if refused is not None and name in refused:
            raise ValueError(f"{owner}: `{name}` is not an argument of this config. {refused[name]} Nothing was set.")
        if name.startswith("_") or name in known or name in HUB_NAMES:
            continue
        nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.8)
        if nearest:
            raise ValueError(
                f"{owner}: `{name}` is not an argument of this config. Did you mean `{nearest[0]}`? Nothing was set."
            )


def check_model_type(config_class: type[PreTrainedConfig], config_dict: dict[str, Any]) -> None:
    """Refuse the config of another kind of model, which would be read as one of ours with default sizes."""
    model_type = config_dict.get("model_type", config_class.model_type)
    if model_type != config_class.model_type:
        raise ValueError(
            f"{config_class.__name__}: the checkpoint's `model_type` must be {config_class.model_type!r}, got "
            f"{model_type!r}. Load it with the Auto classes of transformers, or give its folder to "
            "`CustomSeq2SeqForConditionalGeneration.from_encoder_pretrained` to use it as an encoder."
        )


class TransformerStackConfig(PreTrainedConfig):
    r"""
    Shared fields of [`TransformerEncoderConfig`] and [`TransformerDecoderConfig`]; not used by itself.

    Args:
        vocab_size (`int`, defaults to 32000): Number of token ids.
        hidden_size (`int`, defaults to 512): Width of the residual stream (`d_model`).
        num_hidden_layers (`int`, defaults to 6): Number of layers.
        num_attention_heads (`int`, defaults to 8): Query heads of each attention.
        num_key_value_heads (`int`, *optional*): Key and value heads (grouped-query attention, Ainslie et al. 2023);
            `None` means as many as query heads. It must divide `num_attention_heads`.
        head_dim (`int`, *optional*): Width of one head; `None` means `hidden_size // num_attention_heads`.
        intermediate_size (`int`, defaults to 2048): Inner width of the feed-forward block.
        hidden_act (`str`, defaults to `"gelu"`): Any activation name of transformers.
        gated_mlp (`bool`, defaults to `False`): `fc2(act(gate_proj(x)) * fc1(x))` (Shazeer 2020) in place of
            `fc2(act(fc1(x)))`.
        norm_type (`str`, defaults to `"layernorm"`): `"layernorm"` or `"rmsnorm"`.
        norm_position (`str`, defaults to `"pre"`): `"pre"` normalises the input of each block, `"post"` the sum of
            residual and block (Vaswani et al. 2017).
        final_norm (`bool`, *optional*): A norm after the last layer; `None` means only with `norm_position="pre"`.
        norm_eps (`float`, defaults to 1e-5): Epsilon of every norm.
        position_type (`str`, defaults to `"sinusoidal"`): `"sinusoidal"` (Vaswani et al. 2017, section 3.5; sines in
            the first half of the width, cosines in the second, as Marian lays them out), `"learned"`, `"rotary"`
            (Su et al. 2021), `"alibi"` (Press et al. 2022; symmetric distances in an encoder) or `"none"`.
        rope_parameters (`dict`, *optional*): Of transformers (`rope_type`, `rope_theta`, ...), with
            `position_type="rotary"`.
        attention_bias (`bool`, defaults to `True`): Biases in the four projections of each attention.
        mlp_bias (`bool`, defaults to `True`): Biases in the feed-forward block.
        qk_norm (`bool`, defaults to `False`): A norm over each head's queries and keys, before the rotation.
        scale_embeddings (`bool`, defaults to `False`): Multiply token embeddings by `sqrt(hidden_size)`.
        embedding_norm (`bool`, defaults to `False`): A norm on the sum of token and position embeddings (BART).
        dropout, attention_dropout, activation_dropout (`float`): Probabilities, used in training only: on embeddings
            and block outputs, on attention weights, and inside the feed-forward block.
        sliding_window (`int`, *optional*): Tokens. In an encoder every layer then sees at most this many tokens to
            each side; in a decoder the layers that `mixer_types` names see the last `sliding_window` tokens, the
            current one included.
        max_position_embeddings (`int`, defaults to 512): Most tokens in a sequence. Learned positions cannot go
            beyond; it is also the length rule of the generation config.
        initializer_range (`float`, defaults to 0.02): Standard deviation of fresh weights.
        pad_token_id, bos_token_id, eos_token_id: Token ids (`eos_token_id` may be a list), or `None`.

    Raises:
        ValueError: A value breaks its rule; the message names argument, rule, value and remedy.
        TypeError: A flag is neither True nor False.
    """

    vocab_size: int = 32000
    hidden_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int = 2048
    hidden_act: str = "gelu"
    gated_mlp: bool = False
    norm_type: str = "layernorm"
    norm_position: str = "pre"
    final_norm: bool | None = None
    norm_eps: float = 1e-5
    position_type: str = "sinusoidal"
    rope_parameters: dict[str, Any] | None = None
    attention_bias: bool = True
    mlp_bias: bool = True
    qk_norm: bool = False
    scale_embeddings: bool = False
    embedding_norm: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    sliding_window: int | None = None
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    config_format: int = CONFIG_FORMAT

    base_model_tp_plan = StackPlan()

    # transformers writes this attribute when attention kernels are chosen, so it is no plain field.
    _known_extra_names: ClassVar[tuple[str, ...]] = (
        "attn_implementation",
        "output_attentions",
        "torch_dtype",
        "num_labels",
        "name_or_path",
    )

    # Fields of a sibling that would change nothing here, and what to do instead.
    _refused_names: ClassVar[dict[str, str]] = {}

    def __post_init__(self, **kwargs: Any) -> None:
        owner = type(self).__name__
        known = set(type(self).__dataclass_fields__) | set(self.attribute_map) | set(self._known_extra_names)
        check_format(owner, self.config_format)
        check_names(owner, kwargs, known, self._refused_names)
        for name in [name for name in kwargs if name in self.attribute_map]:  # BART's names win over the defaults
            setattr(self, name, kwargs.pop(name))
        check_positive_int(owner, "num_hidden_layers", self.num_hidden_layers)  # transformers reads `layer_types` now
        if self.rope_parameters is not None and not isinstance(self.rope_parameters, dict):
            raise TypeError(f"{owner}: `rope_parameters` must be a dict or None, got {self.rope_parameters!r}.")
        super().__post_init__(**kwargs)
        if "base_model_tp_plan" not in kwargs:
            self.__dict__.pop("base_model_tp_plan", None)  # transformers 5.17 writes a copy down
        if self.position_type != "rotary":
            self.rope_parameters = None
        self.check()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; raises `ValueError` for the config of another model type."""
        check_model_type(cls, config_dict)
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As in transformers; `num_key_value_heads` is left out where it is None, as peft multiplies what it finds."""
        output: dict[str, Any] = super().to_dict()
        if output.get("num_key_value_heads") is None:
            output.pop("num_key_value_heads", None)
        return output

    @property
    def key_value_heads(self) -> int:
        """Number of key and value heads, resolved."""
        return self.num_key_value_heads if self.num_key_value_heads is not None else self.num_attention_heads

    @property
    def attention_head_dim(self) -> int:
        """Width of one head, resolved."""
        return self.head_dim if self.head_dim is not None else self.hidden_size // self.num_attention_heads

    @property
    def has_final_norm(self) -> bool:
        """Whether a norm follows the last layer, resolved."""
        return self.final_norm if self.final_norm is not None else self.norm_position == "pre"

    def check(self) -> None:
        """Check every rule of the fields; called by the constructor and again when a model is built."""
        owner = type(self).__name__
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            check_positive_int(owner, name, getattr(self, name))
        for name in ("intermediate_size", "max_position_embeddings"):
            check_positive_int(owner, name, getattr(self, name))
        for name in ("num_key_value_heads", "head_dim", "sliding_window"):
            if getattr(self, name) is not None:
                check_positive_int(owner, name, getattr(self, name))
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            check_probability(owner, name, getattr(self, name))
        for name in ("gated_mlp", "attention_bias", "mlp_bias", "qk_norm", "scale_embeddings", "embedding_norm"):
            check_flag(owner, name, getattr(self, name))
        if self.final_norm is not None:
            check_flag(owner, "final_norm", self.final_norm)
        check_choice(owner, "norm_type", self.norm_type, ("layernorm", "rmsnorm"))
        check_choice(owner, "norm_position", self.norm_position, ("pre", "post"))
        check_choice(owner, "position_type", self.position_type, ("sinusoidal", "learned", "rotary", "alibi", "none"))
        check_choice(owner, "hidden_act", self.hidden_act, tuple(ACT2FN))
        for name in ("norm_eps", "initializer_range"):
            check_positive_number(owner, name, getattr(self, name))
        self._check_heads(owner)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            check_token_id(owner, name, getattr(self, name), self.vocab_size)

    def _check_heads(self, owner: str) -> None:
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{owner}: `hidden_size` must be divisible by `num_attention_heads`, got {self.hidden_size} and "
                f"{self.num_attention_heads}. Change one of them, or set `head_dim`."
            )
        if self.num_attention_heads % self.key_value_heads:
            raise ValueError(
                f"{owner}: `num_key_value_heads` must divide `num_attention_heads`, got {self.key_value_heads} and "
                f"{self.num_attention_heads}. Use a divisor, or None for one key head to each query head."
            )
        if self.position_type == "sinusoidal" and self.hidden_size % 2:
            raise ValueError(
                f"{owner}: sinusoidal positions need an even `hidden_size`, got {self.hidden_size}. Use an even width "
                "or another `position_type`."
            )
        if self.position_type == "rotary":
            if self.attention_head_dim % 2:
                raise ValueError(
                    f"{owner}: rotary positions need an even head width, got {self.attention_head_dim}. Change "
                    "`head_dim` or `num_attention_heads`, or use another `position_type`."
                )
            rope = self.rope_parameters or {}
            for name, value in rope.items():
                for number in value if isinstance(value, (list, tuple)) else [value]:
                    if isinstance(number, float) and not math.isfinite(number):
                        raise ValueError(
                            f"{owner}: `rope_parameters[{name!r}]` must be finite, got {value!r}. Correct it."
                        )
            if any(isinstance(value, dict) for value in rope.values()):
                raise ValueError(
                    f"{owner}: `rope_parameters` must be one dict for all layers, got one for each layer type: "
                    f"{rope!r}. Pass one of the inner dicts."
                )
            names = ("default", *ROPE_INIT_FUNCTIONS)
            check_choice(owner, "rope_parameters['rope_type']", rope.get("rope_type", "default"), names)
            if rope.get("rope_type") == "longrope" and self.head_dim is None:  # transformers multiplies it unasked
                raise ValueError(
                    f"{owner}: `head_dim` must be set with `rope_type` 'longrope', got None. Set it to "
                    f"{self.attention_head_dim} (`hidden_size // num_attention_heads`)."
                )
            factor = rope.get("partial_rotary_factor", 1.0)
            if factor != 1.0:
                raise ValueError(
                    f"{owner}: `rope_parameters['partial_rotary_factor']` must be 1.0 (whole heads are rotated), got "
                    f"{factor!r}. Leave it out."
                )

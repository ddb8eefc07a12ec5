"""Which modules of our models an adapter stands on unless its config says otherwise.

peft looks its tables up by `model_type` alone. One of ours covers many architectures, so a table names the modules of
all of them; peft adapts those that a model has.
"""

from torch import nn

from ..models.configuration_custom_seq2seq import CustomSeq2SeqConfig
from ..models.configuration_recurrent_decoder import RecurrentDecoderConfig
from ..models.configuration_recurrent_encoder import RecurrentEncoderConfig
from ..models.configuration_transformer_decoder import TransformerDecoderConfig
from ..models.configuration_transformer_encoder import TransformerEncoderConfig

# Ours: queries and values of every attention, as peft has it for BART; both matrices of cells and recurrences.
_OUR_LINEAR_LAYERS = (
    "q_proj",
    "v_proj",
    "cell.input_proj",
    "cell.recurrent_proj",
    "forward_cell.input_proj",
    "forward_cell.recurrent_proj",
    "backward_cell.input_proj",
    "backward_cell.recurrent_proj",
    "recurrence.gate_proj",
    "recurrence.input_proj",
)
# Encoders of others: BERT and its kin, DistilBERT, T5. BART, Marian, Whisper and CLIP say `q_proj` and `v_proj`.
_FOREIGN_LINEAR_LAYERS = ("self.query", "self.value", "q_lin", "v_lin", "SelfAttention.q", "SelfAttention.v")

# (IA)^3 scales keys and values, and what enters the second feed-forward layer (Liu et al. 2022, section 3.3).
_OUR_SCALED_LAYERS = (
    "k_proj",
    "v_proj",
    "fc2",
    "cell.input_proj",
    "forward_cell.input_proj",
    "backward_cell.input_proj",
    "recurrence.input_proj",
)
_FOREIGN_SCALED_LAYERS = ("self.key", "self.value", "output.dense", "SelfAttention.k", "SelfAttention.v", "wo")
_FEED_FORWARD_LAYERS = ("fc2", "output.dense", "wo")

_OUR_NORMS = ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm", "layer_norm")

_OWN_TYPES = (
    TransformerEncoderConfig.model_type,
    TransformerDecoderConfig.model_type,
    RecurrentEncoderConfig.model_type,
    RecurrentDecoderConfig.model_type,
)
LIKE_LORA = ("LORA", "ADALORA", "LOHA", "LOKR")
"""Methods of peft that stand on the same linear layers."""


def register_target_modules() -> None:
    """
    Add our model types to the tables of peft; calling it again changes nothing, and a user's own entry stays.

    Raises:
        ImportError: peft is not installed.
    """
    from peft.utils import constants

    linear = [*_OUR_LINEAR_LAYERS, *_FOREIGN_LINEAR_LAYERS]
    scaled = [*_OUR_SCALED_LAYERS, *_FOREIGN_SCALED_LAYERS]
    entries = dict.fromkeys(LIKE_LORA, (list(_OUR_LINEAR_LAYERS), linear))
    entries["IA3"] = (list(_OUR_SCALED_LAYERS), scaled)
    entries["LNTUNING"] = (list(_OUR_NORMS), [*_OUR_NORMS, "LayerNorm"])
    tables = {f"{method}_TARGET": entry for method, entry in entries.items()}
    tables["IA3_FEEDFORWARD"] = (["fc2"], list(_FEED_FORWARD_LAYERS))
    for name, (own, composed) in tables.items():
        table: dict[str, list[str]] = getattr(constants, f"TRANSFORMERS_MODELS_TO_{name}_MODULES_MAPPING")
        for model_type in _OWN_TYPES:
            table.setdefault(model_type, own)
        table.setdefault(CustomSeq2SeqConfig.model_type, composed)


def default_target_modules(model: nn.Module) -> list[str]:
    """
    The names of our LoRA table that a model has; of a model with none of them (a decoder of your own over an encoder
    that we do not know) the last names of all linear layers but the vocabulary projection.

    Args:
        model (`nn.Module`).

    Raises:
        ValueError: The model has no linear layer.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    known = [*_OUR_LINEAR_LAYERS, *_FOREIGN_LINEAR_LAYERS]
    found = [one for one in known if any(f".{name}".endswith(f".{one}") for name in linear)]
    if found:
        return found
    others = sorted({name.rpartition(".")[2] for name in linear if not name.endswith("lm_head")})
    others = [name for name in others if not name.isdigit()]
    if not others:
        raise ValueError(
            f"`model` must have linear layers to adapt, found none in {type(model).__name__}. Name modules in "
            "`target_modules`."
        )
    return others

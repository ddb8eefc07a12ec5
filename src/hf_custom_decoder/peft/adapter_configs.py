"""Configs of peft that fit a model of ours: sizes, what is tied, what cannot work."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from ..models.configuration_transformer_decoder import TransformerDecoderConfig
from .target_modules import default_target_modules
from .tied_copies import tied_groups

if TYPE_CHECKING:
    from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig


def get_lora_config(
    model: PreTrainedModel,
    *,
    r: int = 8,
    target_modules: Sequence[str] | None = None,
    modules_to_save: Sequence[str] | None = None,
    **options: Any,
) -> "LoraConfig":
    """
    A LoRA config for a model, with `task_type` and `target_modules` read from it.

    A module of `modules_to_save` whose weight is tied brings all that share it: their copies are saved and, after
    [`tie_saved_modules`], trained as one.

    Args:
        model (`PreTrainedModel`): A seq2seq model or a language model; not one of peft's.
        r (`int`, defaults to 8): Rank.
        target_modules (`Sequence[str]`, *optional*): Ends of names of layers; by default those of our table that the
            model has, or all its linear layers where it has none of these.
        modules_to_save (`Sequence[str]`, *optional*): Ends of names of modules that are trained in full and saved with
            the adapter.
        options: Of [`~peft.LoraConfig`]: `use_dora=True`, `use_rslora=True`, `lora_alpha`, `lora_dropout`, ...

    Returns:
        [`~peft.LoraConfig`].

    Raises:
        ValueError: `r` is not positive, a name fits nothing, a target's weight is tied, or a module to save has below
            it a weight that is tied to one elsewhere.
        ImportError: peft is not installed.
    """
    from peft import LoraConfig

    if isinstance(r, bool) or not isinstance(r, int) or r < 1:
        raise ValueError(f"`r` must be a positive integer, got {r!r}. Ranks of 4 to 64 are usual.")
    targets = default_target_modules(model) if target_modules is None else list(target_modules)
    groups = tied_groups(model)
    for one in targets:
        tied = next((group for group in groups if set(_named(model, "target_modules", one)) & set(group)), None)
        if tied is not None:
            raise ValueError(
                f"`target_modules` must not hold a layer whose weight is tied, got {one!r} ({' and '.join(tied)} are "
                "one): merged, the adapter would change them all. Put it into `modules_to_save`, or build the model "
                "with `tie_word_embeddings=False`."
            )
    saved = [name for one in modules_to_save or () for name in _named(model, "modules_to_save", one)]
    for name in list(saved):
        for group in groups:
            inside = [one for one in group if one.startswith(f"{name}.")]
            if inside and len(inside) < len(group):
                raise ValueError(
                    f"`modules_to_save` must not hold a part of what is tied, got {name!r}: {' and '.join(group)} are "
                    "one. Name its layers instead, or build the model with `tie_word_embeddings=False`."
                )
            if name in group:
                saved.extend(one for one in group if one not in saved)
    if saved:
        options["modules_to_save"] = saved
    return LoraConfig(task_type=task_type(model), r=r, target_modules=targets, **options)


def get_prompt_tuning_config(
    model: PreTrainedModel, *, num_virtual_tokens: int, **options: Any
) -> "PromptTuningConfig":
    """
    A prompt-tuning config: vectors before the embeddings of the source (of the text, for a language model).

    Args:
        model (`PreTrainedModel`): A seq2seq model over text, or a language model.
        num_virtual_tokens (`int`): Vectors.
        options: Of [`~peft.PromptTuningConfig`].

    Raises:
        ValueError: The encoder reads no embeddings, or peft, which looks for an embedding with as many rows as the
            decoder's vocabulary, would take another than the source's.
        ImportError: peft is not installed.
    """
    from peft import PromptTuningConfig

    owner = type(model).__name__
    embedding: Any = model.get_input_embeddings()
    vocab_size = model.config.get_text_config().vocab_size
    found = next((one for one in model.base_model.parameters() if one.shape and one.shape[0] == vocab_size), None)
    if found is not getattr(embedding, "weight", None):
        rows = getattr(embedding, "num_embeddings", None)
        raise ValueError(
            f"Prompt tuning of {owner} needs one vocabulary size on both sides, got {vocab_size} for the decoder and "
            f"{rows} for the source: peft finds the source's embedding by its number of rows. Use LoRA."
        )
    settings = {
        "num_transformer_submodules": 1,
        "token_dim": embedding.weight.shape[1],  # of the source: the decoder may be of another width
        "num_layers": model.config.num_hidden_layers,
        "num_attention_heads": 1,  # nobody reads it
    }
    return PromptTuningConfig(
        task_type=task_type(model), num_virtual_tokens=num_virtual_tokens, **{**settings, **options}
    )


def get_prefix_tuning_config(
    model: PreTrainedModel, *, num_virtual_tokens: int, **options: Any
) -> "PrefixTuningConfig":
    """
    A prefix-tuning config: keys and values before those of the decoder's self-attention in every layer.

    Args:
        model (`PreTrainedModel`): With a Transformer decoder that has attention in every layer.
        num_virtual_tokens (`int`): Keys a layer.
        options: Of [`~peft.PrefixTuningConfig`].

    Raises:
        ValueError: A layer of the decoder has no self-attention keys.
        ImportError: peft is not installed.
    """
    from peft import PrefixTuningConfig

    decoder: Any = model.config.decoder if model.config.is_encoder_decoder else model.config
    mixers = list(decoder.resolved_mixer_types) if isinstance(decoder, TransformerDecoderConfig) else []
    without = [index for index, name in enumerate(mixers) if not name.endswith("attention")]
    if not mixers or without:
        found = f"layers {without} with {mixers[without[0]]!r}" if without else f"a {decoder.model_type!r}"
        raise ValueError(
            f"Prefix tuning of {type(model).__name__} needs attention keys in every layer of the decoder, got "
            f"{found}. Use prompt tuning or LoRA."
        )
    sizes = {
        "num_layers": len(mixers),
        "num_attention_heads": decoder.key_value_heads,
        "token_dim": decoder.key_value_heads * decoder.attention_head_dim,
    }
    return PrefixTuningConfig(
        task_type=task_type(model), num_virtual_tokens=num_virtual_tokens, **{**sizes, **options}
    )


def task_type(model: PreTrainedModel) -> Any:
    """The `peft.TaskType` of a model: SEQ_2_SEQ_LM, CAUSAL_LM, or FEATURE_EXTRACTION without a vocabulary."""
    from peft import TaskType

    if not model.can_generate():
        return TaskType.FEATURE_EXTRACTION
    return TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM


def _named(model: PreTrainedModel, argument: str, end: str) -> list[str]:
    """Names of the modules that a name fits."""
    found = [name for name, _ in model.named_modules() if f".{name}".endswith(f".{end}")]
    if not end or not found:
        raise ValueError(
            f"`{argument}` must hold ends of module names, found none for {end!r} in {type(model).__name__}. "
            "`model.named_modules()` lists them."
        )
    return found

"""The model of a run, built for its tokenizers."""

from dataclasses import fields
from typing import Any

from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel

from ..data.pair_encoding import PairTokenizers
from ..hub.adapter_folder import check_whole_model
from ..models.configuration_custom_seq2seq import OWN_DECODER_CONFIGS, OWN_ENCODER_CONFIGS, CustomSeq2SeqConfig
from ..models.modeling_custom_seq2seq import CustomSeq2SeqForConditionalGeneration
from .recipe_options import Recipe
from .recipe_reading import describe_unknown

DROPOUT_NAMES = ("dropout", "dropout_rate", "hidden_dropout_prob")
"""What configs call the dropout of their layers' outputs."""


def build_recipe_model(recipe: Recipe, tokenizers: PairTokenizers, *, reads_weights: bool = True) -> PreTrainedModel:
    """Builds what the recipe's `model` section describes; fresh weights come from torch's global generator.

    Vocabulary sizes and token ids are those of the tokenizers; fields of a section win over those of a preset.

    Args:
        recipe ([`Recipe`]): Of the whole run.
        tokenizers ([`PairTokenizers`]): With padding and end tokens.
        reads_weights (`bool`, *optional*, defaults to `True`): Whether pretrained parts have their weights, and not
            their shapes alone.

    Returns:
        [`~transformers.PreTrainedModel`]: On the CPU, in training mode, with the recipe's search settings.

    Raises:
        OSError: If a pretrained model cannot be read.
        ValueError: If a field is unknown or breaks a rule, the vocabulary is larger than a pretrained model's, or the
            data is longer than the model's positions.
    """
    options = recipe.model
    target = tokenizers.target
    joining: dict[str, Any] = {"label_smoothing": recipe.training.label_smoothing}
    for name in ("tie_word_embeddings", "tie_encoder_decoder_embeddings"):
        if getattr(options, name) is not None:
            joining[name] = getattr(options, name)
    decoder = {**_vocabulary(target), **options.decoder}
    start = target.bos_token_id if target.bos_token_id is not None else target.pad_token_id
    model: PreTrainedModel
    if options.pretrained is not None:
        shape = AutoConfig.from_pretrained(options.pretrained)
        if options.dropout is not None:
            _set_dropout(shape, options.dropout)
        if reads_weights:
            model = AutoModelForSeq2SeqLM.from_pretrained(options.pretrained, config=shape)
        else:
            model = AutoModelForSeq2SeqLM.from_config(shape)
        if hasattr(model.config, "label_smoothing"):
            model.config.label_smoothing = recipe.training.label_smoothing
        elif recipe.training.label_smoothing:
            raise ValueError(
                f"`training.label_smoothing` is a field of this package's models, but {options.pretrained} is a "
                f"{type(model).__name__}. Leave it out."
            )
        _check_vocabulary(len(target), model.config.get_text_config().vocab_size, options.pretrained)
    elif options.pretrained_encoder is not None:
        joining |= {"decoder": decoder, "decoder_start_token_id": start}
        if reads_weights:
            model = CustomSeq2SeqForConditionalGeneration.from_encoder_pretrained(
                options.pretrained_encoder, **joining
            )
        else:
            shape = AutoConfig.from_pretrained(options.pretrained_encoder)
            model = CustomSeq2SeqForConditionalGeneration(CustomSeq2SeqConfig(encoder=shape, **joining))
        size = model.config.encoder.get_text_config(encoder=True).vocab_size
        _check_vocabulary(len(tokenizers.source), size, options.pretrained_encoder)
    else:
        encoder = {**options.encoder}
        if encoder.get("model_type", "custom_transformer_encoder") in OWN_ENCODER_CONFIGS:
            encoder = {**_vocabulary(tokenizers.source), **encoder}
        if options.preset is not None:
            shape = CustomSeq2SeqConfig.from_preset(
                options.preset, vocab_size=len(target), encoder_vocab_size=len(tokenizers.source)
            )
            encoder = {**_fields(shape.encoder), **encoder}
            decoder = {**_fields(shape.decoder), **decoder}
            for name in ("tie_word_embeddings", "tie_encoder_decoder_embeddings"):
                joining.setdefault(name, getattr(shape, name) and (tokenizers.is_joint or name[4] == "w"))
        config = CustomSeq2SeqConfig(encoder=encoder, decoder=decoder, decoder_start_token_id=start, **joining)
        model = CustomSeq2SeqForConditionalGeneration(config)
    check_positions(recipe, model, "model")
    _set_search(recipe, model)
    return model.train()


def check_model(recipe: Recipe) -> None:
    """Checks a recipe's `model` section before any work.

    Raises:
        OSError: If a pretrained part cannot be read.
        ValueError: If it is an adapter, or a field of an encoder or decoder of ours is unknown.
    """
    _check_fields("encoder", recipe.model.encoder)
    _check_fields("decoder", recipe.model.decoder)
    for option in ("pretrained", "pretrained_encoder"):
        name = getattr(recipe.model, option)
        if name is None:
            continue
        check_whole_model(name, f"model.{option}")
        try:
            AutoConfig.from_pretrained(name)
        except OSError as error:
            raise FileNotFoundError(
                f"`model.{option}` must be a folder written by `save_pretrained` or the name of a repository on the "
                f"Hub; {name!r} could not be read ({str(error).strip().splitlines()[0]}). Without a network (or with "
                "HF_HUB_OFFLINE=1) only models that were read before are there."
            ) from error


def _set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Sets what configs call by different names; of our models on both sides, as on each for itself."""
    parts = [config.encoder, config.decoder] if isinstance(config, CustomSeq2SeqConfig) else [config]
    for part in parts:
        name = next((name for name in DROPOUT_NAMES if hasattr(part, name)), None)
        if name is None:
            raise ValueError(
                f"`model.dropout` sets {', '.join(DROPOUT_NAMES[:-1])} or {DROPOUT_NAMES[-1]}, but the config of a "
                f"{part.model_type} has none of them. Leave it out, and change the config."
            )
        setattr(part, name, dropout)


def _check_fields(side: str, given: dict[str, Any]) -> None:
    """Raises a `ValueError` for a name that is no field of a config of ours; those of others take any name."""
    own = OWN_ENCODER_CONFIGS if side == "encoder" else OWN_DECODER_CONFIGS
    kind = own.get(given.get("model_type", f"custom_transformer_{side}"))
    if kind is None:
        return
    of_any = {field.name for field in fields(PreTrainedConfig)}
    names = {"model_type", *(field.name for field in fields(kind))}
    for name in given:
        if name not in names | of_any:
            prefix = f"model.{side}."
            raise ValueError(describe_unknown(f"{prefix}{name}", sorted(names - of_any), prefix))


def _vocabulary(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _fields(config: Any) -> dict[str, Any]:
    """The fields of a preset's side, for another config of the same type."""
    names = ("model_type", *type(config).__dataclass_fields__)
    known = config.to_dict()
    return {name: known[name] for name in names if name in known and name not in ("transformers_version", "dtype")}


def _check_vocabulary(num_tokens: int, vocab_size: int, name: str) -> None:
    if num_tokens > vocab_size:
        raise ValueError(
            f"The tokenizer must not have more tokens than the model {name} has embeddings, got {num_tokens} and "
            f"{vocab_size}. Use the tokenizer of that model."
        )


def check_positions(recipe: Recipe, model: PreTrainedModel, option: str) -> None:
    """Raises a `ValueError` if the data may be longer than a model's positions.

    A learned table of positions ends somewhere; others are checked too, as generation stops there.

    Args:
        recipe ([`Recipe`]): Its `data` section bounds the lengths.
        model ([`~transformers.PreTrainedModel`]): An encoder-decoder model.
        option (`str`): Where the recipe names the model, for the message.
    """
    for side, limit in (("encoder", "max_source_length"), ("decoder", "max_target_length")):
        part = getattr(model.config, side, None) if not isinstance(getattr(model.config, side, None), dict) else None
        most = getattr(model.config if part is None else part, "max_position_embeddings", None)
        length = getattr(recipe.data, limit)
        if isinstance(most, int) and length > most:
            pretrained = [recipe.model.pretrained]
            if side == "encoder":
                pretrained.append(recipe.model.pretrained_encoder)
            is_free = option == "model" and not any(pretrained)
            remedy = f", or set `model.{side}.max_position_embeddings`" if is_free else ""
            raise ValueError(
                f"`data.{limit}` must be within the positions of the {option}'s {side}, got {length} and {most}. "
                f"Lower it{remedy}."
            )


def _set_search(recipe: Recipe, model: PreTrainedModel) -> None:
    search = recipe.generation
    settings = model.generation_config
    if settings is None:
        return
    settings.num_beams = search.num_beams
    settings.max_new_tokens = search.max_new_tokens or recipe.data.max_target_length
    settings.max_length = None
    settings.length_penalty = search.length_penalty if search.num_beams > 1 else None
    settings.no_repeat_ngram_size = search.no_repeat_ngram_size or None

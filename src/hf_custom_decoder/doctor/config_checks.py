"""Checks of ids, generation config and tied weights, which compute nothing."""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .examples import TokenIds
from .findings import Verdict
from .patient import Patient, decoder_embedding

Found = tuple[Verdict, str]


def check_special_tokens(patient: Patient) -> Found:
    """Padding, end and start tokens are in the vocabulary, and config, generation config and tokenizer agree."""
    model, ids = patient.original, patient.ids
    generation: Any = model.generation_config
    if generation is None:
        return Verdict.WRONG, "The model has no generation config. Set `model.generation_config` and save it."
    sides = [generation, *_configs(model)]
    known = {name: _agreed(sides, name) for name in ("pad", "bos", "eos", "decoder_start", "forced_bos", "forced_eos")}
    problems = [problem for _, problem in known.values() if problem]
    values = {name: value for name, (value, _) in known.items()}
    for name in ("pad", "eos", "decoder_start"):
        if not values[name] and not (name == "decoder_start" and values["bos"]):
            problems.append(f"no `{name}_token_id` is set in config or generation config: set it")
    for name, chosen in values.items():
        problems += [
            f"`{name}_token_id` {one} is outside the decoder's vocabulary of {ids.target_size}: correct it"
            for one in chosen
            if not 0 <= one < ids.target_size
        ]
    if patient.tokenizers is not None:
        problems += _tokenizer_problems(patient.ids, *patient.tokenizers, values)
    if problems:
        return Verdict.WRONG, _sentence(problems)
    text = ", ".join(f"{name} {'/'.join(map(str, chosen))}" for name, chosen in values.items() if chosen)
    agreement = "config and generation config agree" if patient.tokenizers is None else "also with the tokenizer"
    remarks = []
    if values["pad"] == values["eos"]:
        remarks.append(
            "padding is the end token: collators that hide padding also hide the end, which is never learnt"
        )
    if generation.max_length is None and generation.max_new_tokens is None:
        remarks.append(
            "no greatest length is set, so `generate()` stops after transformers' 20 tokens: set "
            "`generation_config.max_new_tokens`"
        )
    if remarks:
        return Verdict.NOTE, _sentence([f"{text}; {agreement}", *remarks])
    return Verdict.RIGHT, _sentence([f"{text}; {agreement}"])


def _configs(model: PreTrainedModel) -> list[Any]:
    """The model's config, and that of its decoder part where it has one."""
    decoder = getattr(model.config, "decoder", None)
    return [model.config, decoder] if isinstance(decoder, PreTrainedConfig) else [model.config]


def _agreed(sides: list[Any], name: str) -> tuple[list[int], str | None]:
    """The ids of one role, and what is wrong where two configs disagree."""
    found = [as_ids(getattr(settings, f"{name}_token_id", None)) for settings in sides]
    given = [ids for ids in found if ids]
    if not given:
        return [], None
    if any(not set(ids) & set(given[0]) for ids in given):
        texts = " and ".join(dict.fromkeys("/".join(map(str, ids)) for ids in given))
        return given[0], f"`{name}_token_id` is {texts} in generation config and config: make them equal"
    return given[0], None


def as_ids(value: Any) -> list[int]:
    """One id or several as a list."""
    if value is None:
        return []
    return [int(one) for one in value] if isinstance(value, Iterable) else [int(value)]


def _tokenizer_problems(
    ids: TokenIds, source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase, values: dict[str, list[int]]
) -> list[str]:
    problems = []
    for name in ("pad", "eos"):
        own = getattr(target, f"{name}_token_id")
        if own is None:
            problems.append(f"the tokenizer has no {name} token: set `tokenizer.{name}_token`")
        elif values[name] and own not in values[name]:
            problems.append(
                f"`{name}_token_id` is {own} for the tokenizer and {values[name][0]} for the model: make them equal"
            )
    for side, tokenizer, size in (
        ("source", source, ids.source_size),
        ("target", target, ids.target_size),
    ):
        if len(tokenizer) > size:
            problems.append(f"the {side} tokenizer has {len(tokenizer)} tokens for {size} embeddings: resize them")
    ordinary = [one for one in values["decoder_start"] if one not in target.all_special_ids]
    if ordinary:
        token = target.convert_ids_to_tokens(ordinary[0])
        problems.append(f"`decoder_start_token_id` {ordinary[0]} is the ordinary token {token!r}: take a special one")
    return problems


def check_tying(patient: Patient) -> Found:
    """Embeddings and vocabulary projection are one tensor exactly where the config says so."""
    model = patient.original
    is_joined = model.config.model_type == "encoder-decoder"  # two published models: the decoder ties its own
    settings = _configs(model)[-1] if is_joined else model.config
    wanted = bool(getattr(settings, "tie_word_embeddings", False))
    output: Any = model.get_output_embeddings()
    if output is None:
        return Verdict.NOT_APPLICABLE, "The model has no vocabulary projection."
    is_tied = output.weight is decoder_embedding(model).weight
    problems = []
    if wanted != is_tied:
        problems.append(
            f"`tie_word_embeddings` is {wanted}, but the vocabulary projection and the decoder's embedding are "
            f"{'one weight' if is_tied else 'two weights'}: make the config say what was trained, or tie them"
        )
    weights = dict(model.named_parameters(remove_duplicate=False))
    for name, other in sorted((getattr(model, "all_tied_weights_keys", None) or {}).items()):
        if name in weights and other in weights and weights[name] is not weights[other]:
            problems.append(f"{name} should be {other}, but is a weight of its own: call `tie_weights()`")
    if problems:
        return Verdict.WRONG, _sentence(problems)
    groups = tied_groups(model)
    shared = "; ".join(" = ".join(group) for group in groups) or "none are shared"
    return Verdict.RIGHT, f"As the config says (tie_word_embeddings {wanted}): {shared}."


def tied_groups(model: torch.nn.Module) -> list[tuple[str, ...]]:
    """Names of parameters that are one tensor, a tuple each, sorted."""
    by_tensor: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        by_tensor.setdefault(id(weight), []).append(name)
    return sorted(tuple(sorted(names)) for names in by_tensor.values() if len(names) > 1)


def _sentence(parts: list[str]) -> str:
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text[0] != "`" else f"{text}."

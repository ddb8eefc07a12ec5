"""From pairs of texts to pairs of ids, with a rule for those that are too long."""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

_PAIRS_AT_ONCE = 10_000


@dataclass(frozen=True)
class PairTokenizers:
    """The tokenizers of both sides; one and the same where the vocabulary is shared.

    Attributes:
        source ([`~transformers.PreTrainedTokenizerBase`]): Of the encoder.
        target ([`~transformers.PreTrainedTokenizerBase`]): Of the decoder, with an end token.
    """

    source: PreTrainedTokenizerBase
    target: PreTrainedTokenizerBase

    @property
    def is_joint(self) -> bool:
        """`bool`: Whether both sides have the same one."""
        return self.source is self.target


def encode_pairs(
    pairs: Any,
    tokenizers: PairTokenizers,
    *,
    max_source_length: int,
    max_target_length: int,
    too_long: str,
    split: str,
    keep_texts: bool = False,
    streaming: bool = False,
) -> Any:
    """Tokenizes pairs.

    Args:
        pairs (`datasets.Dataset` or `datasets.IterableDataset`): From [`read_pairs`].
        tokenizers ([`PairTokenizers`]): Of both sides.
        max_source_length (`int`): Longest source in tokens, end token included.
        max_target_length (`int`): Longest target in tokens, end token included.
        too_long (`str`): "drop" leaves longer pairs out, "truncate" cuts them and keeps the end token, "refuse"
            raises an error.
        split (`str`): Name of the split, for messages.
        keep_texts (`bool`, *optional*, defaults to `False`): Keep the columns of [`read_pairs`].
        streaming (`bool`, *optional*, defaults to `False`): Whether `pairs` is a stream.

    Returns:
        The same kind of data with `input_ids` and `labels` (both end with the end token) and, unless it is a stream,
        `source_length` and `target_length` in tokens.

    Raises:
        ValueError: If a pair is too long and that is refused, or none is left.
    """
    columns = ["source", "target", "references"]
    encoded = pairs.map(
        _encode,
        batched=True,
        remove_columns=[] if keep_texts else columns,
        fn_kwargs={
            "tokenizers": tokenizers,
            "limits": (max_source_length, max_target_length),
            "too_long": too_long,
            "split": split,
            "keep_texts": keep_texts,
            "keep_lengths": not streaming,
        },
        **({} if streaming else {"desc": f"tokenizing {split}"}),
    )
    if not streaming and len(encoded) == 0:
        raise ValueError(
            f"`data.{split}` must hold pairs that are short enough, but all {len(pairs)} have more than "
            f"{max_source_length} tokens of source or {max_target_length} of target. Raise `data.max_source_length` "
            "and `data.max_target_length`, or set `data.too_long: truncate`."
        )
    return encoded


def _encode(
    pairs: dict[str, list[Any]],
    *,
    tokenizers: PairTokenizers,
    limits: tuple[int, int],
    too_long: str,
    split: str,
    keep_texts: bool,
    keep_lengths: bool,
) -> dict[str, list[Any]]:
    sources = with_end(tokenizers.source, pairs["source"], is_needed=False)
    targets = with_end(tokenizers.target, pairs["target"], is_needed=True)
    rows: dict[str, list[Any]] = {"input_ids": [], "labels": []}
    if keep_lengths:
        rows |= {"source_length": [], "target_length": []}
    if keep_texts:
        rows |= {name: [] for name in pairs}
    for idx, (source, target) in enumerate(zip(sources, targets, strict=True)):
        if len(source) > limits[0] or len(target) > limits[1]:
            if too_long == "drop":
                continue
            if too_long == "refuse":
                raise ValueError(
                    f"A pair of {split} has {len(source)} tokens of source and {len(target)} of target, but "
                    f"`data.max_source_length` is {limits[0]} and `data.max_target_length` {limits[1]}: "
                    f"{pairs['source'][idx]!r:.80}. Raise them, or set `data.too_long` to drop or truncate."
                )
            source, target = _cut(source, limits[0]), _cut(target, limits[1])
        rows["input_ids"].append(source)
        rows["labels"].append(target)
        if keep_lengths:
            rows["source_length"].append(len(source))
            rows["target_length"].append(len(target))
        if keep_texts:
            for name in pairs:
                rows[name].append(pairs[name][idx])
    return rows


def with_end(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, is_needed: bool) -> list[list[int]]:
    """Tokenizes texts; where `is_needed`, every result ends with the end token, also if the tokenizer adds none."""
    ids: list[list[int]] = tokenizer(texts, return_attention_mask=False, return_token_type_ids=False, verbose=False)[
        "input_ids"
    ]
    if is_needed:
        end = tokenizer.eos_token_id
        ids = [row if row and row[-1] == end else [*row, end] for row in ids]
    return ids


def find_control_tokens(pairs: Any, tokenizers: PairTokenizers) -> tuple[int, str]:
    """Looks for pairs whose text has a control token of its tokenizer, such as `</s>`, written in it.

    Tokenizers read it as that token: a text ends in its middle, or has padding there.

    Args:
        pairs (`datasets.Dataset`): From [`read_pairs`].
        tokenizers ([`PairTokenizers`]): Of both sides.

    Returns:
        `tuple[int, str]`: Number of such pairs, and the first such text, cut short; "" if there is none.
    """
    sides = {"source": _control_tokens(tokenizers.source), "target": _control_tokens(tokenizers.target)}
    num_found, first = 0, ""
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        some = pairs[start : start + _PAIRS_AT_ONCE]
        for texts in zip(*(some[side] for side in sides), strict=True):
            found = [text for text, tokens in zip(texts, sides.values(), strict=True) if any(map(text.count, tokens))]
            num_found += bool(found)
            first = first or "".join(found[:1])[:80]
    return num_found, first


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """What begins, ends, parts and fills up; data sets do write the unknown token and masks on purpose."""
    if getattr(tokenizer, "split_special_tokens", False):
        return set()
    names = ("bos_token", "eos_token", "pad_token", "cls_token", "sep_token")
    return {str(token) for name in names if (token := getattr(tokenizer, name, None))}


def _cut(ids: list[int], length: int) -> list[int]:
    """Keeps the last id, which ends the text."""
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]

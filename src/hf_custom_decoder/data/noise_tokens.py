"""The special tokens of self-supervised objectives: found in a tokenizer, or missed with a remedy."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

MASK_TOKEN = "<mask>"
_SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", "।")
_PROBE = "a"


def sentinel_names(num_sentinels: int) -> list[str]:
    """Returns the names of sentinels in their order, those of T5."""
    return [f"<extra_id_{idx}>" for idx in range(num_sentinels)]


def text_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the ids that a tokenizer puts before and after a text."""
    inner = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    whole = tokenizer(_PROBE)["input_ids"]
    start = next(idx for idx in range(len(whole)) if whole[idx : idx + len(inner)] == inner)
    return tuple(whole[:start]), tuple(whole[start + len(inner) :])


@dataclass(frozen=True)
class NoiseTokens:
    """What noise and its frame are made of.

    Attributes:
        before (`tuple[int, ...]`): What the tokenizer puts before a text, such as `[CLS]`.
        after (`tuple[int, ...]`): What ends a text; its last one is the end token.
        mask_id (`int`, *optional*): Stands for a hidden span.
        sentinel_ids (`tuple[int, ...]`): Stand for the first, second, ... hidden span.
        last_ids (`frozenset[int]`): Tokens that end a sentence.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    mask_id: int | None
    sentinel_ids: tuple[int, ...]
    last_ids: frozenset[int]

    @property
    def num_frame(self) -> int:
        """`int`: Tokens around every text."""
        return len(self.before) + len(self.after)

    def framed(self, ids: Sequence[int]) -> list[int]:
        """Returns a text with what the tokenizer puts around it."""
        return [*self.before, *ids, *self.after]


def find_noise_tokens(
    tokenizer: PreTrainedTokenizerBase, name: str, *, needs_mask: bool, num_sentinels: int
) -> NoiseTokens:
    """Finds the tokens in a tokenizer.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): With an end token.
        name (`str`): What it is called in messages.
        needs_mask (`bool`): Whether a task hides spans behind a mask token.
        num_sentinels (`int`): Most sentinels in one target.

    Raises:
        ValueError: If one that is needed is missing, with the remedy.
    """
    known = tokenizer.get_vocab()
    if needs_mask and tokenizer.mask_token_id is None:
        raise ValueError(
            f"The tokenizer {name} must have a mask_token for text_infilling, found none. Train one (leave "
            "`tokenizer.name` out), or take another objective."
        )
    missing = [token for token in sentinel_names(num_sentinels) if token not in known]
    if missing:
        raise ValueError(
            f"The tokenizer {name} must have {num_sentinels} sentinels for span_corruption, found no {missing[0]}. "
            "Train one (leave `tokenizer.name` out), lower `pretraining.window` or `corruption_rate`, or raise "
            "`mean_span_length`."
        )
    before, after = text_frame(tokenizer)
    end = tokenizer.eos_token_id
    ends = {idx for token, idx in known.items() if token.endswith(_SENTENCE_ENDS)}
    return NoiseTokens(
        before=before,
        after=after if after and after[-1] == end else (*after, end),
        mask_id=tokenizer.mask_token_id,
        sentinel_ids=tuple(known[token] for token in sentinel_names(num_sentinels)),
        last_ids=frozenset(ends | {end}),
    )

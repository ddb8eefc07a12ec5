"""
One vocabulary for models whose two sides number their tokens apart, and a tokenizer of characters for it.

The target's tokens come first, under their own ids, so that decoder and vocabulary projection stay as they are; the
source's other tokens follow, and the rows of the encoder's embedding are put in that order.
"""

from collections.abc import Sequence

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PAD, START, END, UNKNOWN, FILL = "<pad>", "<s>", "</s>", "<unk>", "<fill>"

FILL_MARK, START_MARK, END_MARK = "\ue000", "\ue001", "\ue002"
"""Characters of the private use area that stand for special tokens while a text is normalized."""


class JointVocabulary:
    """
    Two lists of tokens as one.

    Args:
        target (`Sequence[str]`): In the order of the decoder's ids.
        source (`Sequence[str]`): In the order of the encoder's ids; a token that the target has too is one token.
        source_unknown (`str`): The source token as which the encoder reads tokens that only the target has.
    """

    def __init__(self, target: Sequence[str], source: Sequence[str], source_unknown: str) -> None:
        known = set(target)
        self.tokens = [*target, *(token for token in source if token not in known)]
        self.num_target, self.num_source = len(target), len(source)
        rows = {token: row for row, token in enumerate(source)}
        self.source_rows = [rows.get(token, rows[source_unknown]) for token in self.tokens]

    def __len__(self) -> int:
        return len(self.tokens)

    def id_of(self, token: str) -> int:
        """The id of a token."""
        return self.tokens.index(token)

    def encoder_embedding(self, embedding: torch.Tensor, owner: str) -> torch.Tensor:
        """
        `(num_source, width)` as the encoder has it, to `(len(self), width)`.

        Raises:
            ValueError: Another number of rows.
        """
        if embedding.shape[0] != self.num_source:
            raise ValueError(
                f"{owner}: the encoder's embedding must have {self.num_source} rows, one for each source token, got "
                f"{embedding.shape[0]}. The weights are of another version of the package."
            )
        return embedding[self.source_rows]


def fill_behind_source(num_fills: int, *, end_mark: str, target: str) -> list[normalizers.Normalizer]:
    """
    Normalizers that put `end_mark` and `FILL_MARK`s behind a text of the source, and `END_MARK` behind one of the
    target.

    Some models read the padding behind their source as if it were text. As ordinary tokens no mask hides it, and
    `generate()`, which takes padding tokens without a mask for padding, leaves it alone.

    Args:
        num_fills (`int`): More than enough; [`cut_filled_source`] takes away what is too much.
        end_mark (`str`): Empty, or one character.
        target (`str`): Regular expression that matches the whole of a text of the target and of no other.
    """
    return [
        normalizers.Replace(Regex(rf"\A(?!(?:{target})\z)(?m:.*)\K\z"), end_mark + FILL_MARK * num_fills),
        normalizers.Replace(Regex(rf"(?<!{FILL_MARK})\z"), END_MARK),
    ]


def cut_filled_source(length: int) -> normalizers.Normalizer:
    """A normalizer that keeps the first `length` characters of a text that was filled."""
    return normalizers.Replace(Regex(rf"(?<=\A(?m:.{{{length}}}))(?m:.*){FILL_MARK}\z"), "")


def character_tokenizer(
    vocabulary: JointVocabulary,
    steps: Sequence[normalizers.Normalizer],
    *,
    unknown: str,
    has_end: bool = False,
    pattern: str = ".",
    joins: bool = True,
    max_length: int,
) -> PreTrainedTokenizerFast:
    """
    A tokenizer whose tokens are single characters, or what `pattern` matches.

    Args:
        vocabulary ([`JointVocabulary`]).
        steps (`Sequence[normalizers.Normalizer]`): What is done to a text before; the marks of this file become
            special tokens after.
        unknown (`str`): Stands for characters without a token.
        has_end (`bool`, defaults to `False`): Put the end token behind every text.
        pattern (`str`): Regular expression of a token; what it does not match is dropped.
        joins (`bool`, defaults to `True`): Decoded tokens are put together without blanks.
        max_length (`int`): In tokens.

    Returns:
        [`~transformers.PreTrainedTokenizerFast`]: All of it lies in `tokenizer.json`; no code of ours is needed to
        run it.
    """
    ids = {token: token_id for token_id, token in enumerate(vocabulary.tokens)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    marks = {FILL_MARK: FILL, START_MARK: START, END_MARK: END}
    named = [normalizers.Replace(mark, token) for mark, token in marks.items()]
    tokenizer.normalizer = normalizers.Sequence([*steps, *named])
    specials = "|".join(marks.values())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"{specials}|{pattern}"), behavior="removed", invert=True)
    if has_end:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, ids[END])])
    if joins:
        tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=unknown,
        extra_special_tokens=[FILL] if FILL in ids else [],
        model_max_length=max_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )

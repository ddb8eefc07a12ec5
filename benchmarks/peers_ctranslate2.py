"""
CTranslate2 where it is installed: BART's weights in its own runtime, through its own converter.

It converts BART from a folder. Ours it does not know (its converter lists the configs that it takes), so that the BART
which ours is made from stands for both: the weights are the same.
"""

import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import BartForConditionalGeneration

from .batches import Batch
from .interleaved import UnequalWorkError
from .sizes import END, PAD, START

COMPUTE_TYPES = {"fp32": "float32", "int8": "int8"}
"""CTranslate2's word for each precision of `set_decoding_precision` that both have on a CPU."""


def has_ctranslate2() -> bool:
    """Whether CTranslate2 is installed."""
    return importlib.util.find_spec("ctranslate2") is not None


def words_of(vocab_size: int) -> list[str]:
    """One word an id: CTranslate2 takes and returns words."""
    special = {PAD: "<pad>", START: "<s>", END: "</s>"}
    return [special.get(index, f"w{index}") for index in range(vocab_size)]


def save_for_converter(bart: BartForConditionalGeneration, folder: Path) -> None:
    """Config, weights and a tokenizer of one word an id; the config gets a field that the converter asks for."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bart.save_pretrained(folder)
    config = folder / "config.json"
    fields = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**fields, "normalize_before": False}), encoding="utf-8")  # BART is post-norm
    words = words_of(bart.config.vocab_size)
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=words[PAD]))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=words[PAD],
        unk_token=words[PAD],
        bos_token=words[START],
        eos_token=words[END],
    ).save_pretrained(folder)


def build_ctranslate2(bart: BartForConditionalGeneration, compute_type: str) -> Any:
    """
    A `ctranslate2.Translator` with the weights of `bart` on as many threads as torch has.

    Args:
        bart (`BartForConditionalGeneration`): In float32, on the CPU.
        compute_type (`str`): One of the values of `COMPUTE_TYPES`; weights are rounded when they are read.
    """
    from ctranslate2 import Translator
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory() as name:
        source, converted = Path(name) / "bart", Path(name) / "converted"
        save_for_converter(bart, source)
        TransformersConverter(str(source)).convert(str(converted))
        return Translator(
            str(converted),
            device="cpu",
            compute_type=compute_type,
            inter_threads=1,
            intra_threads=torch.get_num_threads(),
        )


class CTranslate2Decoding:
    """
    A contestant: one call of `translate_batch` without any end token, words to ids and back left out of the time.

    Args:
        translator (`ctranslate2.Translator`): From `build_ctranslate2`.
        source (`Batch`): `input_ids` and `attention_mask` of shape `(batch_size, source_length)`; padding is cut off.
        vocab_size (`int`): Of the model.
        new_tokens (`int`): Tokens that every row gets.
        beams (`int`): 1 is greedy search.
    """

    def __init__(self, translator: Any, source: Batch, vocab_size: int, *, new_tokens: int, beams: int = 1) -> None:
        self.translator, self.new_tokens = translator, new_tokens
        self.words = words_of(vocab_size)
        rows = zip(source["input_ids"].tolist(), source["attention_mask"].sum(1).tolist(), strict=True)
        self.source = [[self.words[index] for index in ids[:length]] for ids, length in rows]
        self.settings: dict[str, Any] = {
            "beam_size": beams,
            "max_decoding_length": new_tokens,
            "max_input_length": 0,
            "end_token": [],
        }

    def _translate(self) -> list[list[str]]:
        return [result.hypotheses[0] for result in self.translator.translate_batch(self.source, **self.settings)]

    def write(self) -> torch.Tensor:
        """Generated ids `(batch_size, 1 + new_tokens)`, the start token first."""
        ids = {word: index for index, word in enumerate(self.words)}
        return torch.tensor([[START, *(ids[word] for word in row)] for row in self._translate()])

    def __call__(self) -> int:
        lengths = {len(row) for row in self._translate()}
        if lengths != {self.new_tokens}:
            raise UnequalWorkError(
                f"CTranslate2 must write {self.new_tokens} tokens in every row, got {sorted(lengths)}. Look for end "
                "tokens in its settings."
            )
        return len(self.source) * self.new_tokens

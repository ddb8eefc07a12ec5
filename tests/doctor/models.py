"""Models for the doctor: tiny stock ones, and ours with one thing broken each."""

from typing import Any

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_custom_decoder import CustomSeq2SeqForConditionalGeneration
from tests.factories import VOCAB_SIZE, spread_weights, tiny_config, tiny_seq2seq

BART_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
}


def tiny_stock(name: str, **fields: Any) -> PreTrainedModel:
    """BART, Marian or T5 with random weights and the roles of ids of their published checkpoints."""
    torch.manual_seed(0)
    if name == "BART":
        ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
        return BartForConditionalGeneration(
            BartConfig(**BART_SIZES, **ids, forced_eos_token_id=2, init_std=0.1, **fields)
        ).eval()
    if name == "Marian":
        ids = {"pad_token_id": 49, "eos_token_id": 0, "decoder_start_token_id": 49}
        return MarianMTModel(MarianConfig(**BART_SIZES, **ids, forced_eos_token_id=0, init_std=0.1, **fields)).eval()
    sizes = {"vocab_size": VOCAB_SIZE, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
    config = T5Config(**sizes, decoder_start_token_id=0, **fields)
    return T5ForConditionalGeneration(config).eval()


class DropsSourceMask(CustomSeq2SeqForConditionalGeneration):
    """Padding of the source is read."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **inputs: Any) -> Any:
        return super().forward(input_ids=input_ids, **inputs)


class CountsPadding(CustomSeq2SeqForConditionalGeneration):
    """Padded label positions count in the loss."""

    def forward(self, *arguments: Any, labels: Any = None, **inputs: Any) -> Any:
        return super().forward(*arguments, labels=None if labels is None else labels.clamp_min(0), **inputs)


class DropsTargetMask(CustomSeq2SeqForConditionalGeneration):
    """Padding before a target prefix is read."""

    def forward(self, *arguments: Any, decoder_attention_mask: Any = None, **inputs: Any) -> Any:
        return super().forward(*arguments, **inputs)


class ForgetsCache(CustomSeq2SeqForConditionalGeneration):
    """Every token is decoded as the first one."""

    def forward(self, *arguments: Any, past_key_values: Any = None, **inputs: Any) -> Any:
        return super().forward(*arguments, **inputs)


class MixesSources(CustomSeq2SeqForConditionalGeneration):
    """Rows of a batch see each other's source."""

    def forward(self, *arguments: Any, encoder_outputs: Any = None, **inputs: Any) -> Any:
        if encoder_outputs is not None:
            states = encoder_outputs[0]
            encoder_outputs = (states + states.mean(dim=0, keepdim=True),)
        return super().forward(*arguments, encoder_outputs=encoder_outputs, **inputs)


class HasHiddenScale(CustomSeq2SeqForConditionalGeneration):
    """Something that counts is neither a weight nor in the config."""

    scale = 1.0

    def forward(self, *arguments: Any, **inputs: Any) -> Any:
        output = super().forward(*arguments, **inputs)
        if output.logits is not None:
            output.logits = output.logits * self.scale
        return output


class ShiftsTwice(CustomSeq2SeqForConditionalGeneration):
    """Learns the token after the next one, as labels that were shifted before make it."""

    def forward(self, *arguments: Any, labels: Any = None, **inputs: Any) -> Any:
        return super().forward(*arguments, labels=None if labels is None else labels.roll(-1, dims=1), **inputs)


class DropsItemCount(CustomSeq2SeqForConditionalGeneration):
    """Averages over its own tokens whatever the Trainer says."""

    def forward(self, *arguments: Any, num_items_in_batch: Any = None, **inputs: Any) -> Any:
        return super().forward(*arguments, **inputs)


class Raises(CustomSeq2SeqForConditionalGeneration):
    """Computes nothing."""

    def forward(self, *arguments: Any, **inputs: Any) -> Any:
        raise RuntimeError("a broken layer")


def tiny(kind: type[CustomSeq2SeqForConditionalGeneration] = CustomSeq2SeqForConditionalGeneration) -> Any:
    """One of the classes above, or ours as it is."""
    if kind is CustomSeq2SeqForConditionalGeneration:
        return tiny_seq2seq()
    torch.manual_seed(0)
    model = kind(tiny_config()).eval()
    spread_weights(model)
    return model


def ignores_source() -> PreTrainedModel:
    """Cross-attention adds nothing."""
    model = tiny()
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.encoder_attn.out_proj.weight.zero_()
    return model


def has_idle_weight() -> PreTrainedModel:
    """A weight that the loss does not depend on."""
    model = tiny()
    model.idle = torch.nn.Linear(2, 2)
    return model


def has_unmade_tie() -> PreTrainedModel:
    """The config ties two weights that are two."""
    model = tiny()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 0.1)
    return model


def has_new_tie() -> PreTrainedModel:
    """Two equal weights that are one after loading."""
    model = tiny_stock("T5")
    model.lm_head.weight = torch.nn.Parameter(model.shared.weight.detach().clone())
    return model


def has_lost_tie() -> PreTrainedModel:
    """One weight that is written once and read as two."""
    model = tiny_stock("BART", tie_word_embeddings=False)
    model.model.decoder.embed_tokens.weight = model.model.encoder.embed_tokens.weight
    return model


def has_hidden_scale() -> PreTrainedModel:
    model = tiny(HasHiddenScale)
    model.scale = 2.0
    return model

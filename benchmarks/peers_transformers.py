"""The Transformer models that are compared: random weights, seeded, the same sizes and the same dropout."""

from typing import Any

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    MarianConfig,
    MarianMTModel,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
    T5GemmaModuleConfig,
)

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    RecurrentDecoderConfig,
)
from hf_custom_decoder.conversion import convert_bart

from .sizes import END, MAX_POSITIONS, PAD, START, Size


def build_bart(size: Size, seed: int) -> BartForConditionalGeneration:
    """transformers' BART: post-norm, learned positions, gelu, biases, tied embeddings, dropout 0.1."""
    torch.manual_seed(seed)
    config = BartConfig(
        vocab_size=size.vocab,
        d_model=size.width,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        encoder_ffn_dim=size.ffn,
        decoder_ffn_dim=size.ffn,
        max_position_embeddings=MAX_POSITIONS,
        dropout=0.1,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
        decoder_start_token_id=START,
        forced_eos_token_id=None,
    )
    model = BartForConditionalGeneration(config)
    free_generation(model)
    return model


def build_marian(size: Size, seed: int) -> MarianMTModel:
    """transformers' Marian: as BART with sinusoidal positions and without a norm on the embeddings."""
    torch.manual_seed(seed)
    config = MarianConfig(
        vocab_size=size.vocab,
        d_model=size.width,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        encoder_ffn_dim=size.ffn,
        decoder_ffn_dim=size.ffn,
        max_position_embeddings=MAX_POSITIONS,
        dropout=0.1,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
        decoder_start_token_id=START,
        forced_eos_token_id=None,
    )
    model = MarianMTModel(config)
    free_generation(model)
    return model


def build_t5(size: Size, seed: int) -> T5ForConditionalGeneration:
    """transformers' T5 v1.1: gated gelu, its three matrices two thirds as wide, so that the weights are as many."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=size.vocab,
        d_model=size.width,
        d_kv=size.width // size.heads,
        d_ff=2 * size.ffn // 3,
        num_layers=size.layers,
        num_decoder_layers=size.layers,
        num_heads=size.heads,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.1,
        pad_token_id=PAD,
        eos_token_id=END,
    )
    config.decoder_start_token_id = START
    model = T5ForConditionalGeneration(config)
    free_generation(model)
    return model


def build_t5gemma(size: Size, seed: int) -> T5GemmaForConditionalGeneration:
    """
    transformers' T5Gemma: rotary positions, gated gelu (two thirds as wide, as for T5), norms before and after each
    block; without windows and soft caps, which only cost time. Its attention is eager, transformers has no other.
    """
    torch.manual_seed(seed)
    shared: dict[str, Any] = {
        "vocab_size": size.vocab,
        "hidden_size": size.width,
        "intermediate_size": 2 * size.ffn // 3,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "head_dim": size.width // size.heads,
        "query_pre_attn_scalar": size.width // size.heads,
        "layer_types": ["full_attention"] * size.layers,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "max_position_embeddings": MAX_POSITIONS,
        "pad_token_id": PAD,
        "bos_token_id": START,
        "eos_token_id": END,
    }
    config = T5GemmaConfig(
        encoder=T5GemmaModuleConfig(**shared),
        decoder=T5GemmaModuleConfig(**shared),
        vocab_size=size.vocab,
        dropout_rate=0.1,
    )
    model = T5GemmaForConditionalGeneration(config)
    free_generation(model)
    return model


def build_encoder_decoder(size: Size, seed: int) -> EncoderDecoderModel:
    """transformers' `EncoderDecoderModel` of two BERTs."""
    torch.manual_seed(seed)
    shared: dict[str, Any] = {
        "vocab_size": size.vocab,
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.ffn,
        "max_position_embeddings": MAX_POSITIONS,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": PAD,
        "bos_token_id": START,
        "eos_token_id": END,
    }
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        BertConfig(**shared), BertConfig(is_decoder=True, add_cross_attention=True, **shared)
    )
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = START, PAD, END
    config.tie_encoder_decoder = False
    model = EncoderDecoderModel(config=config)
    free_generation(model)
    return model


def build_ours(bart: BartForConditionalGeneration) -> CustomSeq2SeqForConditionalGeneration:
    """Our model of BART's shape with the very weights of `bart`."""
    model = convert_bart(bart)
    free_generation(model)
    return model


def build_ours_with(size: Size, decoder: str, seed: int) -> CustomSeq2SeqForConditionalGeneration:
    """
    Our model of BART's shape with another decoder: `"transformer"`, `"ssru"` or `"mingru"` in place of every
    self-attention, or `"lstm"` (of as many layers, dot attention) in place of the whole Transformer.
    """
    torch.manual_seed(seed)
    config = build_ours(build_bart(size, seed)).config
    if decoder in ("ssru", "mingru"):
        config.decoder.mixer_types = [decoder] * size.layers
    elif decoder == "lstm":
        config.decoder = RecurrentDecoderConfig(
            vocab_size=size.vocab,
            hidden_size=size.width,
            num_hidden_layers=size.layers,
            cell_type="lstm",
            attention_type="dot",
            dropout=0.1,
            max_position_embeddings=MAX_POSITIONS,
            pad_token_id=PAD,
            bos_token_id=START,
            eos_token_id=END,
        )
    model = CustomSeq2SeqForConditionalGeneration(CustomSeq2SeqConfig(**config.to_dict()))
    free_generation(model)
    return model


def free_generation(model: PreTrainedModel) -> None:
    """Take every rule of its own out of a model's generation config, so that only the call decides."""
    config = model.generation_config
    assert config is not None
    config.forced_eos_token_id = None
    config.forced_bos_token_id = None
    config.no_repeat_ngram_size = None
    config.early_stopping = None
    config.max_length = None


def count_parameters(model: torch.nn.Module) -> int:
    """Weights, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())

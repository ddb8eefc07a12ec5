"""The Transformer models that are compared: random weights, seeded, the same sizes and the same dropout."""

import torch
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedModel

from hf_custom_decoder import CustomSeq2SeqForConditionalGeneration
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


def build_ours(bart: BartForConditionalGeneration) -> CustomSeq2SeqForConditionalGeneration:
    """Our model of BART's shape with the very weights of `bart`."""
    model = convert_bart(bart)
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

"""
Learning from nothing: a random sequence is written backwards.

No position of the target can be told from the source's surface order or from the target alone, so a model that gets it
right attends, stops, and was trained on labels shifted once. (The idea is joeynmt's `configs/rnn_reverse.yaml`.)
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    RecurrentDecoderConfig,
    RecurrentEncoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from hf_custom_decoder.evaluation.predictions import decode_predictions
from tests.integration.training_runs import END, Example, logged_losses, training_arguments, word_tokenizer

FIRST_SYMBOL, NUM_SYMBOLS, STEPS, BATCH_SIZE, WIDTH = 4, 8, 250, 48, 48
SIZES: dict[str, Any] = {
    "vocab_size": FIRST_SYMBOL + NUM_SYMBOLS,
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 2 * WIDTH,
    "dropout": 0.0,
    "max_position_embeddings": 32,
    "scale_embeddings": True,
    "initializer_range": WIDTH**-0.5,
}

DECODERS: dict[str, dict[str, Any]] = {
    "sinusoidal": {},
    "rotary": {
        "position_type": "rotary",
        "norm_type": "rmsnorm",
        "gated_mlp": True,
        "hidden_act": "silu",
        "num_key_value_heads": 2,
    },
    "sliding": {
        "position_type": "rotary",
        "num_hidden_layers": 2,
        "mixer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 3,
    },
    "ssru": {"mixer_types": ["ssru"]},
}
RECURRENT_SIZES: dict[str, Any] = {
    "vocab_size": FIRST_SYMBOL + NUM_SYMBOLS,
    "hidden_size": 2 * WIDTH,
    "num_hidden_layers": 1,
    "cell_type": "gru",
    "dropout": 0.0,
    "max_position_embeddings": 32,
    "initializer_range": 0.1,
}


def reversed_examples(count: int, seed: int) -> list[Example]:
    """2 to 5 of 8 symbols; the target is the source backwards."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for length in torch.randint(2, 6, (count,), generator=generator).tolist():
        symbols = torch.randint(FIRST_SYMBOL, FIRST_SYMBOL + NUM_SYMBOLS, (length,), generator=generator).tolist()
        source, target = [*symbols, END], [*symbols[::-1], END]
        examples.append({"input_ids": source, "attention_mask": [1] * len(source), "labels": target})
    return examples


def build_config(name: str) -> CustomSeq2SeqConfig:
    if name == "gru":
        return CustomSeq2SeqConfig(
            encoder=RecurrentEncoderConfig(**RECURRENT_SIZES),
            decoder=RecurrentDecoderConfig(**RECURRENT_SIZES, attention_type="dot"),
        )
    return CustomSeq2SeqConfig(
        encoder=TransformerEncoderConfig(**SIZES), decoder=TransformerDecoderConfig(**{**SIZES, **DECODERS[name]})
    )


@pytest.mark.parametrize(
    "name",
    ["rotary", "gru", *[pytest.param(name, marks=pytest.mark.slow) for name in ("sinusoidal", "sliding", "ssru")]],
)
def test_sequences_are_written_backwards(tmp_path: Path, name: str) -> None:
    """250 steps; at least 90 of 100 new sequences right to the last symbol, which guessing gets in none."""
    torch.manual_seed(0)
    config = build_config(name)
    model, tokenizer = CustomSeq2SeqForConditionalGeneration(config), word_tokenizer()
    trainer = Seq2SeqTrainer(
        model=model,
        args=training_arguments(
            tmp_path,
            per_device_train_batch_size=BATCH_SIZE,
            per_device_eval_batch_size=100,
            learning_rate=6e-3,
            warmup_steps=STEPS // 10,
            adam_beta2=0.98,
            max_grad_norm=1.0,
            logging_steps=STEPS // 5,
            predict_with_generate=True,
        ),
        train_dataset=reversed_examples(STEPS * BATCH_SIZE, seed=1),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
    )
    trainer.train()
    assert logged_losses(trainer)[-1] < 0.15  # nats a symbol; guessing one of 8 symbols costs 2.1

    test = reversed_examples(100, seed=2)
    output = trainer.predict(test)
    expected = decode_predictions(tokenizer, output.label_ids)
    found = decode_predictions(tokenizer, output.predictions)
    assert sum(one == other for one, other in zip(found, expected, strict=True)) >= 90

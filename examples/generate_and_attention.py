"""Generation options, and a picture of where the decoder looks.

    python examples/generate_and_attention.py
    python examples/generate_and_attention.py --model FOLDER --text "A man rides a bike."

FOLDER holds model and tokenizer, as `examples/translate_multi30k.py` leaves them. Without it a tiny model first learns
to write letters backwards.

Expected without a folder, seen on 2 CPU cores in 14 seconds: the best beam for `decaf` is `faced` (-0.001 a token),
the prefix `ha` is kept (`haced`), and the picture is in `outputs/attention.png`.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from hf_custom_decoder.hub.attention_map import cross_attention_map, save_attention_maps

LETTERS = "abcdefgh"
PAD, START, END = "<pad>", "<s>", "</s>"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="folder of a saved model with its tokenizer")
    parser.add_argument("--text", default="decaf", help="what to read")
    parser.add_argument("--prefix", default="ha", help="how the output has to begin")
    parser.add_argument("--picture", type=Path, default=Path("outputs/attention.png"), help="where the heat map goes")
    parser.add_argument("--max_steps", type=int, default=400, help="training steps of the tiny model")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter; an end token follows every text."""
    vocabulary = {token: token_id for token_id, token in enumerate([PAD, START, END, *LETTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 2)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, bos_token=START, eos_token=END)


def train_tiny_model(tokenizer: PreTrainedTokenizerBase, max_steps: int, seed: int) -> PreTrainedModel:
    """Learns to write 3 to 6 letters backwards."""
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "position_type": "rotary",
        "norm_type": "rmsnorm",
        "scale_embeddings": True,
        "initializer_range": 48**-0.5,
        "max_position_embeddings": 32,
        "dropout": 0.0,
    }
    config = CustomSeq2SeqConfig(encoder=TransformerEncoderConfig(**sizes), decoder=TransformerDecoderConfig(**sizes))
    model = CustomSeq2SeqForConditionalGeneration(config)
    batch_size, draw = 48, random.Random(seed)
    texts = ["".join(draw.choices(LETTERS, k=draw.randint(3, 6))) for _ in range(max_steps * batch_size)]
    examples = [
        {"input_ids": tokenizer(text)["input_ids"], "labels": tokenizer(text[::-1])["input_ids"]} for text in texts
    ]
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir="outputs/letters",
            max_steps=max_steps,
            per_device_train_batch_size=batch_size,
            learning_rate=5e-3,
            warmup_steps=max(max_steps // 10, 1),
            adam_beta2=0.98,
            logging_steps=max(max_steps // 4, 1),
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=examples,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
    )
    trainer.train()
    return model.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    set_seed(options.seed)
    if options.model is None:
        tokenizer: PreTrainedTokenizerBase = letter_tokenizer()
        model = train_tiny_model(tokenizer, options.max_steps, options.seed)
    else:
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        model = AutoModelForSeq2SeqLM.from_pretrained(options.model)
    inputs = tokenizer([options.text], return_tensors="pt", return_token_type_ids=False).to(model.device)
    print(f"\nread: {options.text}\n\nthe 4 best of 4 beams, with log-probability a token:")

    # All beams share one copy of the encoder's states, so wide beams are cheap on long sources.
    best = model.generate(
        **inputs, num_beams=4, num_return_sequences=4, return_dict_in_generate=True, output_scores=True
    )
    for text, score in zip(tokenizer.batch_decode(best.sequences, True), best.sequences_scores, strict=True):
        print(f"  {float(score):7.3f}  {text.strip()}")

    print("\n4 samples at temperature 2.5:")
    samples = model.generate(**inputs, do_sample=True, temperature=2.5, num_return_sequences=4)
    for text in tokenizer.batch_decode(samples, skip_special_tokens=True):
        print(f"           {text.strip()}")

    prefix = tokenizer([options.prefix], return_tensors="pt", return_token_type_ids=False)["input_ids"][:, :-1]
    start = torch.full((1, 1), model.generation_config.decoder_start_token_id)
    forced = model.generate(
        **inputs, num_beams=4, decoder_input_ids=torch.cat([start, prefix], dim=1).to(model.device)
    )
    print(f"\nbeginning with {options.prefix!r}:\n           {tokenizer.decode(forced[0], True).strip()}")

    model.set_attn_implementation("eager")  # fused kernels return no weights
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    save_attention_maps([cross_attention_map(model, tokenizer, options.text)], options.picture, columns=1)
    print(f"\nwhere the decoder looked: {options.picture}")


if __name__ == "__main__":
    main()

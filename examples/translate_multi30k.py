"""Translation, trained from scratch with the stock `Seq2SeqTrainer` on local JSON Lines files.

    python examples/translate_multi30k.py --data FOLDER

FOLDER holds Multi30k as `en-de.train.jsonl.gz`, `en-de.val.jsonl.gz` and `en-de.test2016.jsonl.gz`, one object like
`{"en": "...", "de": "..."}` a line, packed or not.

Expected with `--max_steps 300` and seed 1, seen on 2 CPU cores in 82 seconds: `test2016: 4.062 nats a token,
perplexity 58.1`, and German that has little to do with the English yet ("Ein Mann in einem weißen Hemd hält eine Frau
in der Hand."). The default of 1,000 steps has not been run to its end.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, load_dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    DataCollatorForSeq2Seq,
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

PAD, START, END = "<pad>", "<s>", "</s>"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the three files")
    parser.add_argument("--output", type=Path, default=Path("outputs/multi30k"), help="where model and tokenizer go")
    parser.add_argument("--source", default="en", help="language to translate from")
    parser.add_argument("--target", default="de", help="language to translate to")
    parser.add_argument("--max_steps", type=int, default=1000, help="optimizer steps")
    parser.add_argument("--batch_size", type=int, default=64, help="sentence pairs a step")
    parser.add_argument("--learning_rate", type=float, default=2e-3, help="at its peak, after a tenth of the steps")
    parser.add_argument("--vocab_size", type=int, default=4000, help="tokens, for both languages together")
    parser.add_argument("--hidden_size", type=int, default=128, help="width of the model")
    parser.add_argument("--max_pairs", type=int, help="use only so many pairs of each file")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


def read_pairs(folder: Path, name: str, max_pairs: int | None) -> Dataset:
    """One of the files as a table with a column for each language."""
    found = sorted(folder.glob(f"*.{name}.jsonl*"))
    if not found:
        raise SystemExit(f"no file *.{name}.jsonl or *.{name}.jsonl.gz in {folder}")
    part = "train" if max_pairs is None else f"train[:{max_pairs}]"  # `datasets` calls every single file so
    return load_dataset("json", data_files=str(found[0]), split=part)


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level pairs of both languages in one vocabulary; an end token follows every text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    end_id = backend.token_to_id(END)
    backend.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, end_id)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, bos_token=START, eos_token=END)


def build_model(tokenizer: PreTrainedTokenizerFast, hidden_size: int) -> CustomSeq2SeqForConditionalGeneration:
    """3 + 3 layers with one embedding matrix for encoder, decoder and vocabulary projection."""
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 4 * hidden_size,
        "norm_type": "rmsnorm",
        "position_type": "rotary",
        "scale_embeddings": True,
        "initializer_range": hidden_size**-0.5,
        "max_position_embeddings": 128,
        "dropout": 0.1,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = CustomSeq2SeqConfig(
        encoder=TransformerEncoderConfig(**sizes),
        decoder=TransformerDecoderConfig(**sizes),
        tie_encoder_decoder_embeddings=True,
        label_smoothing=0.1,
    )
    return CustomSeq2SeqForConditionalGeneration(config)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    set_seed(options.seed)
    tables = {name: read_pairs(options.data, name, options.max_pairs) for name in ("train", "val", "test2016")}
    texts = [text for language in (options.source, options.target) for text in tables["train"][language]]
    tokenizer = train_tokenizer(texts, options.vocab_size)
    model = build_model(tokenizer, options.hidden_size)
    print(f"{len(tables['train'])} pairs, {len(tokenizer)} tokens, {model.num_parameters():,} parameters")

    def encode(pair: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return tokenizer(
            pair[options.source],
            text_target=pair[options.target],
            truncation=True,
            max_length=128,
            return_token_type_ids=False,
        )

    encoded = {name: table.map(encode, batched=True) for name, table in tables.items()}
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=str(options.output),
            max_steps=options.max_steps,
            per_device_train_batch_size=options.batch_size,
            per_device_eval_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            warmup_steps=max(options.max_steps // 10, 1),
            adam_beta2=0.98,
            train_sampling_strategy="group_by_length",
            logging_steps=max(options.max_steps // 10, 1),
            save_strategy="no",
            report_to="none",
            seed=options.seed,
        ),
        train_dataset=encoded["train"],
        eval_dataset=encoded["val"],
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
    )
    trainer.train()
    for name in ("val", "test2016"):
        loss = trainer.evaluate(encoded[name])["eval_loss"]
        print(f"{name}: {loss:.3f} nats a token, perplexity {math.exp(loss):.1f}")

    trainer.save_model()
    sentences = tables["test2016"][options.source][:5]
    inputs = tokenizer(sentences, padding=True, return_tensors="pt", return_token_type_ids=False).to(model.device)
    outputs = tokenizer.batch_decode(model.generate(**inputs, num_beams=4), skip_special_tokens=True)
    for sentence, output, reference in zip(sentences, outputs, tables["test2016"][options.target], strict=False):
        print(f"\n{options.source}: {sentence}\n{options.target}: {output.strip()}\nref: {reference}")
    print(f"\nModel and tokenizer are in {options.output}")


if __name__ == "__main__":
    main()

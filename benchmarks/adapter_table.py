"""
Which methods of peft work on which decoder, and what share of the parameters they train.

    python -m benchmarks.adapter_table           # prints the table
    python -m benchmarks.adapter_table --write   # puts it into docs/peft.md

Width 256, 4 layers a side, vocabulary 8,000, ranks and lengths as in `METHODS`. A cell says "works" after a training
step in which every trained parameter got a gradient, "refused" where the config is refused at the door.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, PreTrainedConfig, PreTrainedModel

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    RecurrentDecoderConfig,
    RecurrentDecoderForCausalLM,
    RecurrentEncoderConfig,
    TransformerDecoderConfig,
    TransformerDecoderForCausalLM,
    TransformerEncoderConfig,
)
from hf_custom_decoder.atomic_files import write_text
from hf_custom_decoder.peft import get_lora_config, get_prefix_tuning_config, get_prompt_tuning_config, train_only

DOCUMENT = Path(__file__).parents[1] / "docs" / "peft.md"
BEGIN, END = "<!-- table: python -m benchmarks.adapter_table --write -->", "<!-- end of the table -->"
SIZES: dict[str, Any] = {"vocab_size": 8000, "hidden_size": 256, "num_hidden_layers": 4}
HEADS: dict[str, Any] = {**SIZES, "num_attention_heads": 4, "intermediate_size": 1024}


def seq2seq(encoder: PreTrainedConfig, decoder: PreTrainedConfig) -> PreTrainedModel:
    return CustomSeq2SeqForConditionalGeneration(CustomSeq2SeqConfig(encoder=encoder, decoder=decoder))


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "Transformer": lambda: seq2seq(TransformerEncoderConfig(**HEADS), TransformerDecoderConfig(**HEADS)),
    "LSTM with attention": lambda: seq2seq(
        RecurrentEncoderConfig(**SIZES, cell_type="lstm"),
        RecurrentDecoderConfig(**SIZES, cell_type="lstm", attention_type="dot"),
    ),
    "hybrid (minGRU, attention)": lambda: seq2seq(
        TransformerEncoderConfig(**HEADS),
        TransformerDecoderConfig(**HEADS, mixer_types=["mingru", "full_attention"] * 2),
    ),
    "Transformer over BERT": lambda: seq2seq(BertConfig(**HEADS), TransformerDecoderConfig(**HEADS)),
    "Transformer LM": lambda: TransformerDecoderForCausalLM(TransformerDecoderConfig(**HEADS)),
    "LSTM LM": lambda: RecurrentDecoderForCausalLM(RecurrentDecoderConfig(**SIZES, cell_type="lstm")),
}


def _last_layer(model: PreTrainedModel) -> list[str]:
    return ["decoder.layers.3"] if model.config.is_encoder_decoder else ["layers.3"]


def adapt(method: str, model: PreTrainedModel) -> Any:
    """The model under a method."""
    from peft import IA3Config, get_peft_model

    task_type = get_lora_config(model).task_type
    if method == "last decoder layer in full":
        train_only(model, _last_layer(model))
        return model
    configs: dict[str, Callable[[], Any]] = {
        "LoRA, r=8": lambda: get_lora_config(model, r=8),
        "DoRA, r=8": lambda: get_lora_config(model, r=8, use_dora=True),
        "rsLoRA, r=8": lambda: get_lora_config(model, r=8, use_rslora=True),
        "(IA)³": lambda: IA3Config(task_type=task_type),
        "prompt tuning, 20": lambda: get_prompt_tuning_config(model, num_virtual_tokens=20),
        "prefix tuning, 20": lambda: get_prefix_tuning_config(model, num_virtual_tokens=20),
    }
    return get_peft_model(model, configs[method]())


METHODS = (
    "LoRA, r=8",
    "DoRA, r=8",
    "rsLoRA, r=8",
    "(IA)³",
    "prompt tuning, 20",
    "prefix tuning, 20",
    "last decoder layer in full",
)


def cell(method: str, model: PreTrainedModel) -> str:
    """The word "works" with the share of trained parameters in percent, or "refused"."""
    total = sum(parameter.numel() for parameter in model.parameters())
    try:
        adapted = adapt(method, model)
    except ValueError:
        return "refused"
    ids = torch.randint(200, 8000, (2, 8), generator=torch.Generator().manual_seed(0))
    adapted.train()(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    if not trained or any(parameter.grad is None for parameter in trained):
        raise RuntimeError(f"{method}: a trained parameter got no gradient.")
    return f"works, {100 * sum(parameter.numel() for parameter in trained) / total:.2f} %"


def table() -> str:
    """The rows in Markdown."""
    torch.manual_seed(0)
    rows = [f"| method | {' | '.join(MODELS)} |", "| --- |" + " --- |" * len(MODELS)]
    for method in METHODS:
        rows.append(f"| {method} | {' | '.join(cell(method, build()) for build in MODELS.values())} |")
    sizes = [sum(one.numel() for one in build().parameters()) / 1e6 for build in MODELS.values()]
    rows.append(f"| parameters of the model, millions | {' | '.join(f'{size:.1f}' for size in sizes)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/peft.md")
    found = table()
    if not parser.parse_args().write:
        print(found)
        return
    text = DOCUMENT.read_text(encoding="utf-8")
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    write_text(DOCUMENT, re.sub(pattern, lambda match: f"{BEGIN}\n\n{found}\n\n{END}", text, flags=re.DOTALL))


if __name__ == "__main__":
    main()

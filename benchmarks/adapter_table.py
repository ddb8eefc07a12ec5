"""
Which methods of peft work on which decoder, what share of the parameters they train, and what memory a step takes.

    python -m benchmarks.adapter_table           # prints the tables
    python -m benchmarks.adapter_table --write   # puts them into docs/peft.md

Width 256, 4 layers a side, vocabulary 8,000, ranks and lengths as in `METHODS`. A cell says "works" after a training
step in which every trained parameter got a gradient, "refused" where the config is refused at the door. Memory is
counted, not sampled: bytes of gradients and of AdamW's state after that step, and bytes that autograd keeps between
forward and backward (`benchmarks/memory.py`).
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

from .memory import saved_bytes

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


ALL = "all parameters"
ROWS, LENGTH = 8, 64  # of a batch: texts, and tokens of each side
MIB = 2**20


def cells(method: str, model: PreTrainedModel) -> tuple[str, str]:
    """
    The word "works" with the share of trained parameters in percent, and MiB of gradients and AdamW's state beside MiB
    of activations; or "refused", and nothing.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    try:
        adapted = model if method == ALL else adapt(method, model)
    except ValueError:
        return "refused", "-"
    ids = torch.randint(200, 8000, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    activations = saved_bytes(adapted.train(), batch)
    adapted(**batch).loss.backward()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    if not trained or len(gradients) < len(trained):
        raise RuntimeError(f"{method}: a trained parameter got no gradient.")
    optimizer = torch.optim.AdamW(trained)
    optimizer.step()
    state = [one for group in optimizer.state.values() for one in group.values() if isinstance(one, torch.Tensor)]
    step = sum(one.nbytes for one in (*gradients, *state))
    share = 100 * sum(parameter.numel() for parameter in trained) / total
    return f"works, {share:.2f} %", f"{step / MIB:.1f} + {activations / MIB:.0f}"


def tables() -> str:
    """Both tables in Markdown, with a sentence between them."""
    torch.manual_seed(0)
    head = [f"| method | {' | '.join(MODELS)} |", "| --- |" + " --- |" * len(MODELS)]
    shares, memory = list(head), list(head)
    for method in (*METHODS, ALL):
        found = [cells(method, build()) for build in MODELS.values()]
        if method != ALL:
            shares.append(f"| {method} | {' | '.join(share for share, _ in found)} |")
        memory.append(f"| {method} | {' | '.join(mib for _, mib in found)} |")
    sizes = [sum(one.numel() for one in build().parameters()) for build in MODELS.values()]
    shares.append(f"| parameters of the model, millions | {' | '.join(f'{size / 1e6:.1f}' for size in sizes)} |")
    memory.append(f"| the weights themselves, on top | {' | '.join(f'{4 * size / MIB:.0f}' for size in sizes)} |")
    between = (
        f"MiB of a training step in float32, {ROWS} texts of {LENGTH} tokens a side: gradients and AdamW's state + "
        "what the forward\npass keeps for the backward pass. An adapter saves the former."
    )
    return "\n".join([*shares, "", between, "", *memory])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/peft.md")
    found = tables()
    if not parser.parse_args().write:
        print(found)
        return
    text = DOCUMENT.read_text(encoding="utf-8")
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    write_text(DOCUMENT, re.sub(pattern, lambda match: f"{BEGIN}\n\n{found}\n\n{END}", text, flags=re.DOTALL))


if __name__ == "__main__":
    main()

"""Data, tokenizer, settings and hand-computed losses that the training tests share."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Seq2SeqTrainer, Seq2SeqTrainingArguments

from tests.factories import VOCAB_SIZE

PAD, START, END = 0, 1, 2

Example = dict[str, list[int]]


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One id a word (`w4` is 4, and so on); an end token follows every text."""
    vocabulary = {"<pad>": PAD, "<s>": START, "</s>": END, "<unk>": 3}
    vocabulary.update({f"w{token_id}": token_id for token_id in range(4, VOCAB_SIZE)})
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
    )


def token_examples(count: int, seed: int = 0) -> list[Example]:
    """Sources of 2 to 9 tokens and targets of 1 to 12, each with its end token."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    examples = []
    for _ in range(count):
        source = [draw(4, VOCAB_SIZE) for _ in range(draw(2, 9))] + [END]
        target = [draw(4, VOCAB_SIZE) for _ in range(draw(1, 12))] + [END]
        examples.append({"input_ids": source, "attention_mask": [1] * len(source), "labels": target})
    return examples


def training_arguments(folder: Path, **kwargs: Any) -> Seq2SeqTrainingArguments:
    """Arguments of a silent run on CPU without clipping, so that one step of plain descent shows the gradient."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "num_train_epochs": 1,
        "max_grad_norm": 0.0,
        "dataloader_pin_memory": False,
        "train_sampling_strategy": "sequential",
    }
    return Seq2SeqTrainingArguments(**{**settings, **kwargs})


def plain_descent(model: PreTrainedModel, rate: float = 1.0) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """`w - rate * gradient` at every step: what weights differ by afterwards is what gradients differed by."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    return optimizer, LambdaLR(optimizer, lambda step: 1.0)


def logged_losses(trainer: Seq2SeqTrainer) -> list[float]:
    """What the Trainer wrote down as the loss of each optimizer step."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@torch.no_grad()
def token_log_probabilities(model: PreTrainedModel, example: Example) -> torch.Tensor:
    """
    Log-probabilities over the vocabulary of one example, `(T, V)` in float64, with neither padding nor our loss code:
    the decoder reads the start token and then each label but the last.
    """
    was_training = model.training
    model.eval()
    logits = model(
        input_ids=torch.tensor([example["input_ids"]]),
        decoder_input_ids=torch.tensor([[START, *example["labels"][:-1]]]),
    ).logits[0]
    model.train(was_training)
    return logits.double().log_softmax(-1)


def summed_loss(model: PreTrainedModel, examples: list[Example], smoothing: float = 0.0) -> float:
    """
    Sum over all label tokens of `-(1 - smoothing) * log p(label) - smoothing * mean over the vocabulary of log p`.
    """
    total = 0.0
    for example in examples:
        log_probabilities = token_log_probabilities(model, example)
        labels = torch.tensor(example["labels"])
        right = log_probabilities.gather(1, labels[:, None])[:, 0]
        total -= float(((1 - smoothing) * right + smoothing * log_probabilities.mean(-1)).sum())
    return total


def label_count(examples: list[Example]) -> int:
    """Label tokens of all examples."""
    return sum(len(example["labels"]) for example in examples)


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A copy of every parameter."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def gradients_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A copy of every gradient; a parameter without one fails the test."""
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing, f"no gradient reached {missing}"
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-10) -> None:
    """Equal names, and values within an absolute and relative tolerance."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda text, n=name: n + text
        )

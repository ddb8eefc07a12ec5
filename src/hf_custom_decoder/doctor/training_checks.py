"""Checks of training: gradients, eight examples learnt by heart, and gradient accumulation of the stock Trainer."""

import math
import tempfile
import time
from importlib.util import find_spec
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PrinterCallback, Seq2SeqTrainer, Seq2SeqTrainingArguments

from .config_checks import Found
from .examples import Example, TokenIds, label_batch, source_batch, target_batch
from .findings import Verdict
from .patient import Patient

OVERFIT_STEPS = 200
OVERFIT_LENGTH = 16
"""Tokens of a source and of a target that are learnt; more would only take longer."""
STILL_LEARNING = 0.95
"""The mean loss of the last tenth of a trial is below this share of that of the tenth before: it was too short."""
OVERFIT_RATES = (1e-2, 3e-3, 5e-4)
"""Peak learning rates of Adam, one trial each, from the widest steps (small models) to the smallest."""


def check_gradients(patient: Patient) -> Found:
    """The gradient of the loss reaches every weight that is to be trained."""
    if patient.num_parameters > patient.limits.trained_parameters:
        return _too_large(patient)
    model: Any = patient.copy().train()
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not trained:
        return Verdict.NOT_APPLICABLE, "No weight is to be trained (`requires_grad`)."
    for _ in range(3):  # layers that are dropped at random
        loss = model(**source_batch(patient.examples, patient.ids), **label_batch(patient.examples)).loss
        if not bool(torch.isfinite(loss)):
            return Verdict.WRONG, f"The training loss is {loss.item()}."
        loss.backward()
        missing = [name for name, weight in trained.items() if weight.grad is None]
        if not missing:
            break
    broken = [
        name for name, weight in trained.items() if weight.grad is not None and not bool(weight.grad.isfinite().all())
    ]
    silent = [name for name, weight in trained.items() if weight.grad is not None and not bool(weight.grad.any())]
    for names, text in (
        (missing, "no gradient, which stops DistributedDataParallel: the loss does not depend on"),
        (broken, "a gradient that is no finite number:"),
        (silent, "a gradient of zero everywhere, so they never learn:"),
    ):
        if names:
            return Verdict.WRONG, f"{len(names)} of {len(trained)} weights get {text} {', '.join(names[:4])}."
    frozen = sum(not weight.requires_grad for weight in model.parameters())
    rest = f"; {frozen} are frozen" if frozen else ""
    return Verdict.RIGHT, f"All {len(trained)} weights that are to be trained get a gradient{rest}."


def check_overfitting(patient: Patient) -> Found:
    """A few hundred steps on eight examples make all their target tokens the likeliest ones."""
    if patient.num_parameters > patient.limits.trained_parameters:
        return _too_large(patient)
    deadline = time.monotonic() + patient.limits.overfit_seconds
    examples = [Example(one.source[:OVERFIT_LENGTH], one.target[:OVERFIT_LENGTH]) for one in patient.examples]
    best = 0.0
    total = 0
    is_still_learning = is_of_other_tokens = False  # the loss
    for rate in OVERFIT_RATES:
        model: Any = without_dropout(patient.copy().float()).train()
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        if not trained:
            return Verdict.NOT_APPLICABLE, "No weight is to be trained (`requires_grad`)."
        optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
        losses: list[float] = []
        for step in range(OVERFIT_STEPS):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 10)
            loss = model(**source_batch(examples, patient.ids), **label_batch(examples)).loss
            if not bool(torch.isfinite(loss)):
                break
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            total += 1
            losses.append(float(loss))
            if step % 10 == 9:
                best = max(best, _share_right(model, examples, patient.ids))
                if best == 1.0:
                    return Verdict.RIGHT, f"{len(examples)} examples are learnt by heart in {step + 1} steps."
            if time.monotonic() > deadline:
                return (
                    Verdict.NOT_APPLICABLE,
                    f"Stopped after {patient.limits.overfit_seconds:.0f} seconds and {total} steps, with "
                    f"{100 * best:.0f} % of the target tokens learnt.",
                )
        if losses and math.log(2.0) * (1.0 - _share_right(model, examples, patient.ids)) > losses[-1]:
            is_of_other_tokens = True  # a token of half the probability is the likeliest
        is_still_learning = is_still_learning or _is_still_learning(losses)
    text = (
        f"{len(OVERFIT_RATES)} trials of {OVERFIT_STEPS} steps teach at most {100 * best:.0f} % of the target tokens "
        f"of {len(examples)} examples"
    )
    if is_still_learning and not is_of_other_tokens:
        return Verdict.NOTE, f"{text}, and the loss still falls: the model is too small to learn them in so few steps."
    return Verdict.WRONG, f"{text}: loss, labels or the way to the source are broken."


def _is_still_learning(losses: list[float]) -> bool:
    tenth = OVERFIT_STEPS // 10
    if len(losses) < OVERFIT_STEPS:
        return False
    before, last = sum(losses[-2 * tenth : -tenth]) / tenth, sum(losses[-tenth:]) / tenth
    return last < STILL_LEARNING * before


def check_accumulation(patient: Patient) -> Found:
    """Four batches of unequal length, accumulated by the stock Trainer, give the gradient of one batch of all."""
    if patient.num_parameters > patient.limits.trained_parameters:
        return _too_large(patient)
    if find_spec("accelerate") is None:
        return Verdict.NOT_APPLICABLE, 'The Trainer needs accelerate: pip install "hf_custom_decoder[train]".'
    examples = sorted(patient.examples, key=lambda one: len(one.target))
    if not any(weight.requires_grad for weight in patient.original.parameters()):
        return Verdict.NOT_APPLICABLE, "No weight is to be trained (`requires_grad`)."
    size = max(len(examples) // 4, 1)
    whole = _step_of_trainer(patient, examples, batch_size=len(examples), accumulation=1)
    accumulated = _step_of_trainer(patient, examples, batch_size=size, accumulation=-(-len(examples) // size))
    distance = float((accumulated - whole).norm() / whole.norm().clamp_min(1e-30))
    if not distance <= 10 * patient.tolerance:
        again = _step_of_trainer(patient, examples, batch_size=len(examples), accumulation=1)
        if not torch.equal(whole, again):
            return Verdict.NOT_APPLICABLE, "With dropout off the model still draws random numbers in training."
        ratio = float((accumulated @ whole) / (whole @ whole).clamp_min(1e-30))
        return (
            Verdict.WRONG,
            f"Batches of {size}, accumulated by the Trainer, give a gradient {ratio:.2f} times as long and "
            f"{100 * distance:.0f} % off that of one batch of {len(examples)}: the loss must divide by "
            "`num_items_in_batch`.",
        )
    return (
        Verdict.RIGHT,
        f"Batches of {size} with unequal lengths add up to the gradient of one batch of {len(examples)}.",
    )


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Sets every rate of dropout in modules and configs to 0, in place."""
    for module in model.modules():
        config = getattr(module, "config", None)
        for holder in (module, config, getattr(config, "encoder", None), getattr(config, "decoder", None)):
            for name, value in list(getattr(holder, "__dict__", {}).items()):
                if ("drop" in name or (name == "p" and "Dropout" in type(module).__name__)) and isinstance(
                    value, float
                ):
                    setattr(holder, name, 0.0)
    return model


@torch.no_grad()
def _share_right(model: Any, examples: list[Example], ids: TokenIds) -> float:
    """Share of target tokens that are the likeliest ones after the right tokens before them."""
    model.eval()
    labels = label_batch(examples)["labels"]
    logits = model(**source_batch(examples, ids), **target_batch(examples, ids), use_cache=False).logits
    model.train()
    real = labels >= 0
    return float((logits.argmax(-1) == labels)[real].double().mean())


def _step_of_trainer(patient: Patient, examples: list[Example], *, batch_size: int, accumulation: int) -> torch.Tensor:
    """One optimizer step of plain descent with rate 1: all weights after it less those before, `(N,)`."""
    model = without_dropout(patient.copy())
    before = _flat(model)
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1.0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Seq2SeqTrainer(
            model=model,
            args=Seq2SeqTrainingArguments(
                output_dir=folder,
                max_steps=1,
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=accumulation,
                max_grad_norm=0.0,
                train_sampling_strategy="sequential",
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=False,
                remove_unused_columns=False,
            ),
            train_dataset=examples,
            data_collator=lambda rows: {**source_batch(rows, patient.ids), **label_batch(rows)},
            optimizers=(optimizer, LambdaLR(optimizer, lambda step: 1.0)),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return before - _flat(model)


def _flat(model: PreTrainedModel) -> torch.Tensor:
    return torch.cat([weight.detach().flatten().clone() for weight in model.parameters() if weight.requires_grad])


def _too_large(patient: Patient) -> Found:
    return (
        Verdict.NOT_APPLICABLE,
        f"Skipped: the model has more than {patient.limits.trained_parameters:,} parameters.",
    )

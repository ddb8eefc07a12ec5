"""Runs all checks over a model and makes the report."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..data.pair_tables import read_pairs
from ..training.recipe_options import DataOptions
from .config_checks import Found, check_special_tokens, check_tying
from .examples import Example, random_examples, text_examples
from .findings import DoctorReport, Finding, Verdict
from .forward_checks import check_beams, check_cache, check_left_padding, check_right_padding, check_source
from .loading import check_kind, load_both_tokenizers, load_examined
from .patient import Limits, Patient, token_ids
from .saving_checks import check_remote_code, check_saving
from .training_checks import check_accumulation, check_gradients, check_overfitting

CHECKS: dict[str, Callable[[Patient], Found]] = {
    "special tokens": check_special_tokens,
    "tying": check_tying,
    "gradients": check_gradients,
    "source matters": check_source,
    "padding at the end": check_right_padding,
    "padding before": check_left_padding,
    "cache": check_cache,
    "beams": check_beams,
    "saving": check_saving,
    "remote code": check_remote_code,
    "overfitting": check_overfitting,
    "accumulation": check_accumulation,
}
CHECK_NAMES = tuple(CHECKS)
"""In the order in which they run."""

_DATA_ROWS = 64


def examine(
    name: str,
    data: DataOptions | None = None,
    *,
    skip: Sequence[str] = (),
    trust_remote_code: bool = False,
    limits: Limits | None = None,
) -> DoctorReport:
    """Examines a saved model on the CPU; its folder is only read.

    Args:
        name (`str`): A folder, a name on the Hub, or a folder with a config alone (the weights are random then).
        data ([`DataOptions`], *optional*): Text to take the examples from (`test` and the columns); without it, or
            without a tokenizer, they are random ids.
        skip (`Sequence[str]`, *optional*): Names of checks to leave out.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether code from the folder may run.
        limits ([`Limits`], *optional*): Up to which size what is done.

    Returns:
        [`DoctorReport`]: A finding for every check that was not left out.

    Raises:
        OSError: If model or data cannot be read.
        ValueError: If it is no encoder-decoder that reads token ids, the data does not fit, or `skip` names no check.
    """
    _check_names(skip)
    with _quiet():
        model, has_fresh_weights = load_examined(name, trust_remote_code=trust_remote_code)
        tokenizers = load_both_tokenizers(name, trust_remote_code=trust_remote_code)
        pairs = None
        if data is not None:
            if tokenizers is None:
                raise ValueError(
                    f"Text needs a tokenizer, but {name} holds none. Leave the data out, or save one there."
                )
            with tempfile.TemporaryDirectory() as scratch:
                rows = replace(data, max_rows=min(data.max_rows or _DATA_ROWS, _DATA_ROWS), cache_dir=scratch)
                pairs = list(read_pairs(rows, "test"))
        path = Path(name)
        return examine_model(
            model,
            tokenizers,
            pairs,
            name=name,
            folder=path.parent if path.name == "config.json" else path if path.is_dir() else None,
            skip=skip,
            has_fresh_weights=has_fresh_weights,
            trust_remote_code=trust_remote_code,
            limits=limits,
        )


def examine_model(
    model: PreTrainedModel,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase] | PreTrainedTokenizerBase | None = None,
    pairs: Sequence[dict[str, Any]] | None = None,
    *,
    name: str = "the model",
    folder: Path | None = None,
    skip: Sequence[str] = (),
    has_fresh_weights: bool = False,
    trust_remote_code: bool = False,
    limits: Limits | None = None,
) -> DoctorReport:
    """Examines a model in memory, which is left as it is.

    Args:
        model ([`~transformers.PreTrainedModel`]): An encoder-decoder on the CPU.
        tokenizers (`tuple` or [`~transformers.PreTrainedTokenizerBase`], *optional*): Of source and target, or one.
        pairs (`Sequence[dict[str, Any]]`, *optional*): With `source` and `target`; needs tokenizers.
        name (`str`, *optional*): For the report.
        folder (`Path`, *optional*): Where it was loaded from.
        skip (`Sequence[str]`, *optional*): Names of checks to leave out.
        has_fresh_weights (`bool`, *optional*, defaults to `False`): Whether nothing was trained yet.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the folder's own code may run.
        limits ([`Limits`], *optional*): Up to which size what is done.

    Returns:
        [`DoctorReport`]: A finding for every check that was not left out; a check that raises says "wrong".

    Raises:
        ValueError: If it is no encoder-decoder that reads token ids, there are fewer than two pairs, or `skip` names
            no check.
    """
    _check_names(skip)
    check_kind(model)
    started = time.monotonic()
    limits = limits or Limits()
    if isinstance(tokenizers, PreTrainedTokenizerBase):
        tokenizers = (tokenizers, tokenizers)
    ids = token_ids(model)
    examples: list[Example] = []
    if pairs is not None and tokenizers is not None:
        longest = min(limits.length, _positions(model))
        examples = text_examples(pairs, *tokenizers, max_length=longest)
        if len(examples) < 2:
            raise ValueError(f"`data` must hold at least two pairs of unequal sources, got {len(examples)}. Add some.")
    has_data = bool(examples)
    if not has_data:
        examples = random_examples(ids, max_length=min(12, _positions(model)))
    was_training = model.training
    patient = Patient(
        original=model.eval(),
        examples=examples,
        ids=ids,
        tokenizers=tokenizers,
        folder=folder,
        has_fresh_weights=has_fresh_weights,
        has_data=has_data,
        trust_remote_code=trust_remote_code,
        limits=limits,
    )
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        findings = [_run(check, patient, each) for each, check in CHECKS.items() if each not in skip]
    model.train(was_training)
    weights = "random weights" if has_fresh_weights else "its weights"
    kind = "text" if has_data else "random ids"
    return DoctorReport(
        model=name,
        model_class=type(model).__name__,
        num_parameters=patient.num_parameters,
        conditions=f"{weights}, {str(patient.dtype).removeprefix('torch.')}, {len(examples)} examples of {kind}",
        versions={package: version(package) for package in ("torch", "transformers")},
        seconds=time.monotonic() - started,
        findings=findings,
    )


def _run(check: Callable[[Patient], Found], patient: Patient, name: str) -> Finding:
    try:
        verdict, text = check(patient)
    except Exception as error:  # whatever a stranger's model raises is a finding
        reason = " ".join(str(error).split())[:300]
        verdict, text = Verdict.WRONG, f"It failed with {type(error).__name__}: {reason}"
    return Finding(name, verdict, text)


def _positions(model: PreTrainedModel) -> int:
    """Longest side that the model's tables of positions allow, in tokens."""
    config: Any = model.config
    parts = [config, getattr(config, "encoder", None), getattr(config, "decoder", None)]
    found = [getattr(part, "max_position_embeddings", None) for part in parts]
    known = [count for count in found if isinstance(count, int) and count > 0]
    return min(known, default=1_000_000)


def _check_names(skip: Sequence[str]) -> None:
    for name in skip:
        if name not in CHECKS:
            raise ValueError(f"`skip` must name checks ({', '.join(CHECKS)}), got {name!r}.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' warnings off the screen; what matters of them is a finding."""
    before, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if has_bars:
            logging.enable_progress_bar()

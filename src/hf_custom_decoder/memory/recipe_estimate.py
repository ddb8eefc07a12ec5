"""Memory per GPU of a recipe's training, without its data, its weights or a GPU."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..data.pair_encoding import PairTokenizers
from ..training.frozen_weights import FrozenWeights
from ..training.recipe_model import build_recipe_model, check_model
from ..training.recipe_options import Recipe
from ..training.recipe_tokenizers import existing_tokenizer_name, take_existing
from .model_states import ModelStates, model_states
from .simulated_step import StepFigures, simulate_step, without_memory

DTYPES = ("float32", "bfloat16")
GIB = 2**30


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one GPU, in bytes, and what it was counted for.

    Attributes:
        setting (`str`): GPUs, sharding and number formats, in words.
        model (`str`): Class, parameters and vocabularies, in words.
        num_parameters (`int`): Of the model, tied ones once.
        num_pairs (`int`): Pairs of one GPU's batch.
        source_length (`int`): Tokens of each of their sources.
        target_length (`int`): Tokens of each of their targets.
        states ([`ModelStates`]): What does not depend on the batch.
        step ([`StepFigures`]): What does.
        not_counted (`tuple[str, ...]`): What a run needs besides.
    """

    setting: str
    model: str
    num_parameters: int
    num_pairs: int
    source_length: int
    target_length: int
    states: ModelStates
    step: StepFigures
    not_counted: tuple[str, ...]

    @property
    def total(self) -> int:
        """`int`: The sum of all parts: an upper figure, as gradients appear while activations go."""
        states, step = self.states, self.step
        held = states.parameters + states.gradients + states.optimizer + states.communication
        return held + step.activations + step.weight_copies + step.working

    @property
    def num_tokens(self) -> int:
        """`int`: Tokens of one GPU's batch, source and target together."""
        return self.num_pairs * (self.source_length + self.target_length)

    def to_dict(self) -> dict[str, Any]:
        """Everything by name, for JSON; bytes, tokens and floating-point operations."""
        return {**asdict(self), "num_tokens": self.num_tokens, "total": self.total}

    def __str__(self) -> str:
        states, step = self.states, self.step
        rows = [
            ("parameters", states.parameters, "and buffers"),
            ("gradients", states.gradients, ""),
            ("optimizer state", states.optimizer, "AdamW"),
            ("communication", states.communication, "buckets, gathered layers: the most at a time"),
            ("activations", step.activations, "what autograd keeps for the backward pass"),
            ("16-bit weight copies", step.weight_copies, "what autocast keeps"),
            ("working memory", step.working, "gradients of activations, loss over the vocabulary: the most at a time"),
            ("total", self.total, "all of them at once; a step without accumulation stays below"),
        ]
        lines = [
            self.setting,
            self.model,
            f"Batch of one GPU: {self.num_pairs:,} pairs of {self.source_length:,} + {self.target_length:,} tokens, "
            f"{self.num_tokens:,} in all",
            f"Arithmetic: {step.flops / 1e12:,.3f} TFLOP a batch, {step.flops / self.num_tokens / 1e9:,.4f} GFLOP a "
            "token, forward and backward",
            "",
            f"{'GiB of one GPU':<22}",
            *(f"{name:<22}{size / GIB:>10,.3f}  {text}".rstrip() for name, size, text in rows),
            "",
            "Not counted:",
            *(f"- {text}" for text in self.not_counted),
        ]
        return "\n".join(line.rstrip() for line in lines)


def estimate_memory(
    recipe: Recipe,
    *,
    num_gpus: int = 1,
    sharding: str = "none",
    dtype: str = "float32",
    gradient_checkpointing: bool = False,
) -> MemoryEstimate:
    """Counts what one GPU holds in a recipe's training.

    The batch is as large as the recipe lets it be: pairs of the longest source and the longest target, as many as
    `training.max_tokens` holds (one shorter pair where it holds none), or `training.batch_size`. A tokenizer that is
    yet to be trained counts as `tokenizer.vocab_size` tokens; no data is read. Formulas and their sources stand at
    [`model_states`] and [`simulate_step`].

    Args:
        recipe ([`Recipe`]): The whole run.
        num_gpus (`int`, *optional*, defaults to 1): Of the whole run.
        sharding (`str`, *optional*, defaults to `"none"`): One of `none`, `zero2`, `zero3`, `fsdp`.
        dtype (`str`, *optional*, defaults to `"float32"`): In which weights, gradients and moments are kept, one of
            [`DTYPES`]; recipes train float32 weights. `training.precision` says what products are computed in.
        gradient_checkpointing (`bool`, *optional*, defaults to `False`): Compute layers again in the backward pass; a
            script can do so (`gradient_checkpointing_enable()`), recipes have no option for it.

    Returns:
        [`MemoryEstimate`]

    Raises:
        OSError: If a tokenizer or pretrained part that the recipe names cannot be read.
        ValueError: If an argument breaks its rule or the recipe does not fit its model.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`--dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}. Choose one of them.")
    weights = getattr(torch, dtype)
    arithmetic = torch.bfloat16 if recipe.training.precision == "bf16" else weights
    tokenizers = _tokenizers(recipe)
    with without_memory(weights if sharding == "none" else arithmetic):
        model = build_recipe_model(recipe, tokenizers, reads_weights=False)
        if recipe.training.freeze:
            FrozenWeights(model, recipe.training.freeze)
        states = model_states(model, num_gpus=num_gpus, sharding=sharding, weights=weights, arithmetic=arithmetic)
        if gradient_checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        uses_autocast = recipe.training.precision == "bf16" and not sharding.startswith("zero")
        pairs, source, target = _batch(recipe)
        step = simulate_step(
            model,
            num_pairs=pairs,
            source_length=source,
            target_length=target,
            autocast=torch.bfloat16 if uses_autocast else None,
        )
    sizes = sorted({len(tokenizers.source), len(tokenizers.target)})
    computed = str(arithmetic).removeprefix("torch.")
    kept = f"{computed} weights, float32 in the optimizer" if sharding.startswith("zero") else f"{dtype} weights"
    setting = f"{num_gpus:,} GPU{'s' if num_gpus > 1 else ''}, sharding {sharding}, {kept}, {computed} arithmetic"
    setting += ", gradient checkpointing" if gradient_checkpointing else ""
    count = model.num_parameters()
    vocabularies = " and ".join(f"{size:,}" for size in sizes)
    words = f"{type(model).__name__} with {count:,} parameters, vocabulary of {vocabularies} tokens"
    return MemoryEstimate(setting, words, count, pairs, source, target, states, step, _not_counted(recipe, sharding))


class _Vocabulary:
    """Stands for a tokenizer that is yet to be trained: its length, and the ids that all of ours have."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


def _tokenizers(recipe: Recipe) -> PairTokenizers:
    check_model(recipe)
    name = existing_tokenizer_name(recipe)
    if name is not None:
        return take_existing(recipe, name)
    options = recipe.tokenizer
    source: Any = _Vocabulary(options.vocab_size)
    target: Any = source if options.joint else _Vocabulary(options.target_vocab_size or options.vocab_size)
    return PairTokenizers(source, target)


def _batch(recipe: Recipe) -> tuple[int, int, int]:
    """Pairs, source length and target length of the largest batch."""
    training, data = recipe.training, recipe.data
    source, target = data.max_source_length, data.max_target_length
    num_passes = 2 if training.r_drop else 1
    if training.max_tokens is None:
        return (training.batch_size or 1) * num_passes, source, target
    if training.max_tokens < source + target:
        share = training.max_tokens / (source + target)
        return num_passes, max(int(source * share), 1), max(int(target * share), 1)
    return training.max_tokens // (source + target) * num_passes, source, target


def _not_counted(recipe: Recipe, sharding: str) -> tuple[str, ...]:
    training = recipe.training
    found = [
        "the CUDA context, NCCL's buffers and the workspaces of matrix products and recurrent kernels",
        "what the allocator holds between tensors (fragmentation)",
        "generation and measurements while training",
        "batches with more target tokens than this one: logits grow with them (short sources, long targets)",
    ]
    if sharding == "zero2":
        found.append("DeepSpeed's float32 copy of a gradient part, during the optimizer step")
    if sharding == "fsdp":
        found.append("units other than one for each layer, and offloading")
    if recipe.tokenizer.name is None and existing_tokenizer_name(recipe) is None:
        found.append("a vocabulary that comes out smaller than `tokenizer.vocab_size`")
    if training.r_drop:
        found.append("the divergence of R-Drop's two passes (both are in the batch)")
    if training.teacher is not None:
        found.append(f"the teacher ({training.teacher}) and its logits")
    if training.ema_decay is not None:
        found.append("the moving average of the weights")
    return tuple(found)

"""
Two processes with DistributedDataParallel equal one process on the joined batch.

DDP waits for the gradient of every parameter, so one that no output depends on, as the pooler of a BERT encoder, stops
the second step. And with unequal shares the mean of two means is not the mean: with n_1 and n_2 label tokens on two
processes and N = n_1 + n_2, each returns `sum_i / N`; the Trainer multiplies by 2, DDP takes the mean, and

    (2 * sum_1 / N + 2 * sum_2 / N) / 2 = (sum_1 + sum_2) / N.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BertConfig,
    DataCollatorForSeq2Seq,
    PreTrainedConfig,
    Seq2SeqTrainer,
    T5Config,
)

from hf_custom_decoder import CustomSeq2SeqConfig, CustomSeq2SeqForConditionalGeneration, TransformerDecoderConfig
from tests.factories import SIZES, VOCAB_SIZE, tiny_seq2seq
from tests.fresh_python import run_python
from tests.integration.training_runs import (
    assert_same,
    gradients_of,
    logged_losses,
    plain_descent,
    token_examples,
    training_arguments,
    weights_of,
    word_tokenizer,
)

KINDS = ("bert", "ours")
RANK_EXAMPLES = (1, 3)
"""Examples on each of the two processes."""


def foreign_encoder(kind: str) -> PreTrainedConfig:
    """A tiny config without dropout."""
    small = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 64}
    if kind == "bert":
        return BertConfig(
            hidden_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **small,
        )
    if kind == "t5":
        return T5Config(
            vocab_size=VOCAB_SIZE, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0
        )
    return BartConfig(
        d_model=24,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        dropout=0.0,
        **small,
    )


def build(kind: str) -> CustomSeq2SeqForConditionalGeneration:
    """The same weights in every process, in float64."""
    if kind == "ours":
        return tiny_seq2seq("rotary_gqa_qk_norm", tie_encoder_decoder_embeddings=True).double()
    torch.manual_seed(0)
    config = CustomSeq2SeqConfig(encoder=foreign_encoder(kind), decoder=TransformerDecoderConfig(**SIZES))
    return CustomSeq2SeqForConditionalGeneration(config).double()


@pytest.mark.parametrize("kind", ["bert", "t5", "bart", "ours"])
def test_a_gradient_reaches_every_parameter(kind: str) -> None:
    """What DDP needs, in one process: nothing is built that the loss does not depend on."""
    model = build(kind).train()
    model(**DataCollatorForSeq2Seq(word_tokenizer())(token_examples(3))).loss.backward()
    assert gradients_of(model)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the first of two processes found."""
    folder = tmp_path_factory.mktemp("distributed")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    worker = Path(__file__).with_name("distributed_worker.py")
    run_python(*launcher, worker, folder / "results.pt", folder=folder, OMP_NUM_THREADS="1")
    loaded: dict[str, Any] = torch.load(folder / "results.pt")
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one_on_the_joined_batch(results: dict[str, Any], kind: str) -> None:
    """Two steps of plain descent; 1 and 3 examples of unequal length on the two processes."""
    model = build(kind).train()
    batch = DataCollatorForSeq2Seq(word_tokenizer(), model=model)(token_examples(sum(RANK_EXAMPLES)))
    optimizer, _ = plain_descent(model)
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    assert_same(results[f"plain {kind}"]["weights"], weights_of(model))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_trainer_on_two_processes_equals_one_with_the_whole_batch(
    results: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    """16 examples: 2 processes x 2 accumulated micro-batches x 2 examples make the same two steps as batches of 8."""
    model = build(kind).train()
    trainer = Seq2SeqTrainer(
        model=model,
        args=training_arguments(tmp_path, per_device_train_batch_size=8),
        train_dataset=token_examples(16),
        data_collator=DataCollatorForSeq2Seq(word_tokenizer(), model=model),
        optimizers=plain_descent(model),
    )
    trainer.train()
    found = results[f"trainer {kind}"]
    assert found["losses"] == pytest.approx(logged_losses(trainer), rel=1e-5)
    assert len(found["losses"]) == 2
    assert_same(found["weights"], weights_of(model))

"""The rest of what callers of `generate()` use: streaming, constraints, stopping, own loops, scores."""

import copy

import pytest
import torch
import torch.distributed as dist
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from tests.factories import tiny_seq2seq
from tests.generation.helpers import EOS_IDS, EVERYTHING, batch, causal, foreign, rows, seq2seq, until_end


class _Streamer:
    """Keeps what it is given."""

    def __init__(self):
        self.ids, self.has_ended = [], False

    def put(self, value):
        self.ids.extend(value.reshape(-1).tolist())

    def end(self):
        self.has_ended = True


@pytest.mark.parametrize("options", [{}, {"do_sample": True}, {"prompt_lookup_num_tokens": 3}], ids=str)
def test_a_streamer_gets_every_token_in_order(options):
    model, inputs, streamer = seq2seq(), rows(batch(), 0), _Streamer()
    prefix = torch.tensor([[1, 14, 20, 14]])
    found = model.generate(**inputs, decoder_input_ids=prefix, max_new_tokens=10, streamer=streamer, **options)
    assert streamer.ids == found[0].tolist()
    assert streamer.has_ended


def test_a_streamer_cannot_follow_beams():
    with pytest.raises(ValueError, match="`streamer` cannot be used with beam search"):
        seq2seq().generate(**rows(batch(), 0), num_beams=2, streamer=_Streamer())


def test_the_same_seed_gives_the_same_samples_and_another_seed_others():
    model, inputs, samples = seq2seq(), batch(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        samples.append(model.generate(**inputs, max_new_tokens=8, do_sample=True, num_return_sequences=3))
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    assert len({tuple(until_end(row, 1)) for row in samples[0][:3]}) > 1  # samples of a source differ


def test_samples_follow_the_distribution_of_their_source():
    """Relative frequencies of the first token over many samples that share a source."""
    model, inputs = seq2seq(), batch(2)
    start = torch.ones(2, 1, dtype=torch.long)
    probabilities = model(**inputs, decoder_input_ids=start).logits[:, -1].softmax(-1)
    samples = model.generate(**inputs, max_new_tokens=1, do_sample=True, num_return_sequences=4000, top_k=0)
    for index in range(2):
        counts = torch.bincount(samples[4000 * index : 4000 * (index + 1), 1], minlength=50).double() / 4000
        assert (counts - probabilities[index]).abs().max() < 0.03


@pytest.mark.parametrize("num_beams", [1, 3])
def test_allowed_tokens_are_asked_for_by_source(num_beams):
    asked = set()

    def allowed(index, ids):
        asked.add(index)
        return [14 + index, 20 + index]

    found = seq2seq().generate(**batch(), max_new_tokens=4, num_beams=num_beams, prefix_allowed_tokens_fn=allowed)
    assert asked == {0, 1, 2}
    for index, row in enumerate(found.tolist()):
        assert set(row[1:]) <= {14 + index, 20 + index}


@pytest.mark.parametrize("num_beams", [1, 3])
def test_own_processors_and_criteria_see_decoder_rows(num_beams):
    seen = []

    class Favour(LogitsProcessor):
        def __call__(self, input_ids, scores):
            seen.append((tuple(input_ids.shape), tuple(scores.shape)))
            scores = scores.clone()
            scores[:, 40] += 100.0
            return scores

    class AtFour(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), input_ids.shape[1] >= 4, dtype=torch.bool)

    found = seq2seq().generate(
        **batch(),
        max_new_tokens=9,
        num_beams=num_beams,
        logits_processor=LogitsProcessorList([Favour()]),
        stopping_criteria=StoppingCriteriaList([AtFour()]),
    )
    assert found[:, :4].tolist() == [[1, 40, 40, 40]] * 3
    assert seen[0] == ((3 * num_beams, 1), (3 * num_beams, 50))


def test_processors_do_what_they_say():
    model, inputs = seq2seq(), batch()
    bigrams = model.generate(**inputs, max_new_tokens=12, num_beams=2, no_repeat_ngram_size=2, eos_token_id=-1)
    for row in bigrams.tolist():
        pairs = list(zip(row, row[1:], strict=False))
        assert len(pairs) == len(set(pairs))
    copied = model.generate(**inputs, max_new_tokens=8, num_beams=2, encoder_no_repeat_ngram_size=1, eos_token_id=2)
    for row, source in zip(copied.tolist(), inputs["input_ids"].tolist(), strict=True):
        assert not set(row[1:]) & (set(source) - {0, 2})
    banned = model.generate(**inputs, max_new_tokens=8, num_beams=2, bad_words_ids=[[29], [14]])
    assert not set(banned[:, 1:].reshape(-1).tolist()) & {29, 14}
    forced = model.generate(
        **inputs, max_new_tokens=6, num_beams=2, forced_bos_token_id=7, forced_eos_token_id=2, eos_token_id=2
    )
    assert (forced[:, 1] == 7).all()
    assert all(2 in row for row in forced[:, 2:].tolist())
    late = model.generate(**inputs, max_new_tokens=12, num_beams=2, min_new_tokens=9)
    assert not torch.isin(late[:, 1:9], torch.tensor(EOS_IDS)).any()


def test_a_loop_of_the_callers_own_runs_on_shared_sources():
    """`custom_generate` gets what every loop of transformers gets; here greedy search over three rows a source."""

    def search(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
        counted.append(tuple(input_ids.shape))
        is_first = True
        while input_ids.shape[1] < generation_config.max_length:
            inputs = model.prepare_inputs_for_generation(
                input_ids,
                next_sequence_length=None if is_first else 1,
                is_first_iteration=is_first,
                **model_kwargs,
            )
            outputs = model(**inputs, return_dict=True)
            model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder=True)
            scores = logits_processor(input_ids, outputs.logits[:, -1])
            input_ids = torch.cat([input_ids, scores.argmax(-1, keepdim=True)], dim=1)
            is_first = False
        return input_ids

    counted = []
    model, inputs = seq2seq(), batch()
    found = model.generate(**inputs, max_new_tokens=6, custom_generate=search, num_beams=3, eos_token_id=-1)
    assert counted == [(9, 1)]
    greedy = model.generate(**inputs, max_new_tokens=6, eos_token_id=-1)
    assert torch.equal(found, greedy.repeat_interleave(3, 0))


def test_a_loop_that_passes_the_whole_sequence_with_a_filled_cache():
    def search(model, input_ids, generation_config, **model_kwargs):
        for name in ("logits_processor", "stopping_criteria"):
            model_kwargs.pop(name)
        while input_ids.shape[1] < generation_config.max_length:
            logits = model(**model.prepare_inputs_for_generation(input_ids, **model_kwargs)).logits
            input_ids = torch.cat([input_ids, logits[:, -1:].argmax(-1)], dim=1)
        return input_ids

    model, inputs = seq2seq(), batch()
    found = model.generate(**inputs, max_new_tokens=6, custom_generate=search, eos_token_id=-1)
    assert torch.equal(found, model.generate(**inputs, max_new_tokens=6, eos_token_id=-1))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
def test_transition_scores_add_up(options):
    model, inputs = seq2seq(), batch()
    extra = {"length_penalty": 0.0} if options else {}
    output = model.generate(
        **inputs, max_new_tokens=8, return_dict_in_generate=True, output_scores=True, **options, **extra
    )
    scores = model.compute_transition_scores(
        output.sequences, output.scores, output.get("beam_indices"), normalize_logits=not options
    )
    assert scores.shape == (len(output.sequences), output.sequences.shape[1] - 1)
    if options:
        torch.testing.assert_close(scores.sum(1), output.sequences_scores)
        return
    for index in range(3):
        ids = torch.tensor([until_end(output.sequences[index], 1)])
        log_probs = model(**rows(inputs, index), decoder_input_ids=ids[:, :-1]).logits.log_softmax(-1)
        expected = log_probs.gather(2, ids[:, 1:, None])[0, :, 0].float()
        torch.testing.assert_close(scores[index, : len(expected)], expected)


def test_transition_scores_where_vocabularies_differ():
    model = tiny_seq2seq(encoder={"vocab_size": 90}).double()
    output = model.generate(
        input_ids=torch.tensor([[80, 70, 60]]),
        max_new_tokens=5,
        num_beams=2,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    scores = model.compute_transition_scores(output.sequences, output.scores, output.beam_indices)
    torch.testing.assert_close(scores.sum(1), output.sequences_scores)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=str)
def test_prefill_chunks_change_nothing(options):
    model, inputs = seq2seq("sliding_first"), batch()
    prefix = {"decoder_input_ids": torch.tensor([[0, 1, 7, 8, 10], [1, 12, 13, 14, 15], [0, 0, 0, 1, 7]])}
    prefix["decoder_attention_mask"] = (prefix["decoder_input_ids"] != 0).long()
    expected = model.generate(**inputs, **prefix, max_new_tokens=6, **options)
    assert torch.equal(model.generate(**inputs, **prefix, max_new_tokens=6, prefill_chunk_size=2, **options), expected)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=str)
def test_synced_gpus_in_a_single_process(tmp_path, options):
    model, inputs = seq2seq(), batch()
    expected = model.generate(**inputs, max_new_tokens=6, **options)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", world_size=1, rank=0)
    try:
        assert torch.equal(model.generate(**inputs, max_new_tokens=6, synced_gpus=True, **options), expected)
    finally:
        dist.destroy_process_group()


def test_the_first_argument_is_the_source():
    model, inputs = seq2seq(), batch()
    expected = model.generate(**inputs, max_new_tokens=6)
    found = model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=6)
    assert torch.equal(found, expected)
    pixels = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    vit = foreign("vit")
    assert torch.equal(vit.generate(pixels, max_new_tokens=6), vit.generate(pixel_values=pixels, max_new_tokens=6))


def test_without_return_dict_a_tensor_and_with_it_every_field():
    model = seq2seq()
    assert isinstance(model.generate(**batch(), max_new_tokens=3), torch.Tensor)
    greedy = model.generate(**batch(), max_new_tokens=3, **EVERYTHING)
    assert set(greedy) == {
        "sequences",
        "scores",
        "logits",
        "encoder_attentions",
        "encoder_hidden_states",
        "decoder_attentions",
        "cross_attentions",
        "decoder_hidden_states",
        "past_key_values",
    }
    beams = model.generate(**batch(), max_new_tokens=3, num_beams=2, **EVERYTHING)
    assert set(beams) == {*greedy, "sequences_scores", "beam_indices"}


def test_a_misspelled_option_is_refused():
    with pytest.raises(ValueError, match="max_new_token'"):
        seq2seq().generate(**batch(), max_new_token=3)


def test_generation_leaves_weights_modes_and_configs_as_they_were():
    model, inputs = seq2seq(), batch()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = model.config.to_dict(), model.generation_config.to_dict()
    given = GenerationConfig(num_beams=3, max_new_tokens=5, eos_token_id=EOS_IDS)
    kept = given.to_dict()
    model.generate(**inputs, generation_config=given)
    assert given.to_dict() == kept
    assert (model.config.to_dict(), model.generation_config.to_dict()) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not any(value.requires_grad for value in model.generate(**inputs, max_new_tokens=2, **EVERYTHING).scores)


def test_half_precision_generates():
    model, inputs = seq2seq(), batch()
    half = copy.deepcopy(model).to(torch.bfloat16)
    for options in ({}, {"num_beams": 3}, {"num_beams": 2, "cache_implementation": "static"}):
        found = half.generate(**inputs, max_new_tokens=6, **options)
        assert found.shape[0] == 3


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_training_mode_and_gradient_checkpointing_change_nothing(use_reentrant):
    """A callback that generates in the midst of training: no dropout in this model, so the tokens are the same."""
    model, inputs = copy.deepcopy(seq2seq()), batch()
    decoder = copy.deepcopy(causal())
    options = [{}, {"num_beams": 3}]
    expected = [model.generate(**inputs, max_new_tokens=6, **option) for option in options]
    ids = torch.tensor([[7, 8, 10]])
    continued = decoder.generate(ids, max_new_tokens=6)
    for one in (model, decoder):
        one.train()
        one.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    for option, ids_of_option in zip(options, expected, strict=True):
        assert torch.equal(model.generate(**inputs, max_new_tokens=6, **option), ids_of_option)
    assert torch.equal(decoder.generate(ids, max_new_tokens=6), continued)

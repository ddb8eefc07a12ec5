"""The figures of a device: what is counted, the share of a known peak, the same code on a CPU, and a clear refusal."""

import gc
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import device_mode
from benchmarks.batches import training_batches
from benchmarks.card_peaks import bf16_peak, forward_flops, training_flops
from benchmarks.device_mode import PLANS, check_device, device_facts, device_measurements, peak_mib, wall_clock
from benchmarks.device_results import DeviceFigure, device_figures, device_table
from benchmarks.interleaved import Race
from benchmarks.peers_transformers import build_bart, build_ours_with
from benchmarks.sizes import TINY

SMALL = replace(TINY, width=16, ffn=32, layers=2, heads=2, vocab=50)
PLAN = replace(PLANS["cpu"], training_sizes=(SMALL,), decoding_sizes=(SMALL,))


def test_flops_are_those_that_torch_counts() -> None:
    bart = build_bart(SMALL, seed=0)
    bart.set_attn_implementation("eager")  # torch's counter sees the products of eager attention only
    source, target = 7, 5
    ids = torch.randint(3, 50, (1, source))
    with FlopCounterMode(display=False) as counter:
        loss = bart.train()(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids[:, :target]).loss
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    # BART computes the masked half of causal attention too.
    masked_half = 4 * SMALL.width * SMALL.layers * (target**2 - target * (target + 1) // 2)
    assert forward == forward_flops(SMALL, source, target) + masked_half
    assert counter.get_total_flops() == 2 * forward


def test_training_counts_real_tokens_three_times() -> None:
    batches = training_batches(grouped=False, vocab_size=50, seed=0, count=2, batch_size=3)
    rows = [
        (int(mask.sum()), int((labels != -100).sum()))
        for batch in batches
        for mask, labels in zip(batch["attention_mask"], batch["labels"], strict=True)
    ]
    assert len(rows) == 6
    assert training_flops(SMALL, batches) == 3 * sum(forward_flops(SMALL, *row) for row in rows)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA B200", 2250),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA A10G", None),
        ("NVIDIA L40", None),
        ("Tesla T4", None),
        ("cpu", None),
    ],
)
def test_peak_of_a_device_name(name: str, tflops: float | None) -> None:
    peak = bf16_peak(name)
    assert peak == (None if tflops is None else tflops * 1e12)


def test_share_is_useful_flops_a_second_over_the_peak() -> None:
    result = Race(100, {"BART": [4.0] * 5, "ours": [2.0] * 5})
    figures = device_figures(
        "x", result, {"BART": "ours"}, memory={"BART": 300.0, "ours": None}, flops=int(1e12), peak=2e12
    )
    assert figures == [
        DeviceFigure("x", "BART", 25.0, 2.0, 2.0, 2.0, peak_share=0.125, peak_mib=300.0),
        DeviceFigure("x", "ours", 50.0, peak_share=0.25),
    ]
    rows = device_table(figures).splitlines()
    assert rows[2] == "| x | BART | 25 | 2.00 [2.00, 2.00] | 12.5% | 300 |"
    assert rows[3] == "| x | ours | 50 |  | 25.0% |  |"
    assert len({row.count("|") for row in rows}) == 1
    assert figures[0].line() == (
        "x, BART: 25 tokens/s, ours is 2.00 [2.00, 2.00] times as fast, 12.5% of the bf16 peak, 300 MiB"
    )
    assert figures[1].line() == "x, ours: 50 tokens/s, 25.0% of the bf16 peak"
    assert DeviceFigure(**figures[0].as_json()) == figures[0]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the classes and functions that torch.compile got; it gives them back as they are."""
    names: list[str] = []

    def give_back(target: Any, **settings: Any) -> Any:
        assert settings["backend"] == "eager"
        names.append(getattr(target, "__qualname__", type(target).__name__))
        return target

    monkeypatch.setattr(torch, "compile", give_back)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # most of the time otherwise
    return names


def test_training_runs_on_a_cpu_without_memory_and_share(compiled: list[str]) -> None:
    measurements = dict(device_measurements(PLAN, seed=0, rounds=5))
    figures = measurements["tiny: training, grouped False"]()
    assert [figure.contestant for figure in figures] == ["BART, SDPA", "BART, SDPA, torch.compile", "ours"]
    assert [figure.ratio is not None for figure in figures] == [True, True, False]
    assert all(figure.cells()[-2:] == ["", ""] for figure in figures)
    assert all(figure.tokens_per_second > 0 for figure in figures)
    assert compiled == ["BartForConditionalGeneration"]


@pytest.mark.parametrize("beams", [1, 4])
def test_decoding_runs_on_a_cpu_with_both_caches(beams: int, compiled: list[str]) -> None:
    measurements = dict(device_measurements(PLAN, seed=0, rounds=5))
    figures = measurements[f"tiny: decoding, {beams} beams, batch 2"]()
    assert [figure.contestant for figure in figures] == [
        "BART, SDPA, dynamic cache",
        "BART, SDPA, static cache, torch.compile",
        "ours, dynamic cache",
        "ours, static cache, torch.compile",
    ]
    assert [figure.ratio is not None for figure in figures] == [True, True, False, False]
    forwards = ["BartForConditionalGeneration.forward", "CustomSeq2SeqForConditionalGeneration.forward"]
    assert compiled == (forwards if beams > 1 else [])  # `generate()` compiles a greedy step by itself


@pytest.mark.parametrize("decoder", device_mode.LONG_TARGET_DECODERS)
def test_long_targets_run_on_a_cpu(decoder: str) -> None:
    figures = dict(device_measurements(PLAN, seed=0, rounds=5))[f"tiny: long targets, {decoder}, batch 2"]()
    assert [figure.contestant for figure in figures] == ["BART, SDPA", "ours"]
    assert figures[0].name == f"tiny: greedy, batch 2, 8 new tokens, decoder {decoder}"
    assert [figure.ratio is not None for figure in figures] == [True, False]


def test_decoders_are_those_that_are_named() -> None:
    ours = {name: build_ours_with(SMALL, name, 0).model.decoder for name in device_mode.LONG_TARGET_DECODERS}
    assert ours["transformer"].config.resolved_mixer_types == ["full_attention"] * 2
    assert [ours[name].config.mixer_types for name in ("ssru", "mingru")] == [["ssru"] * 2, ["mingru"] * 2]
    assert (ours["lstm"].config.cell_type, len(ours["lstm"].layers)) == ("lstm", 2)
    assert all(one.get_input_embeddings().weight.shape == (50, 16) for one in ours.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny: training, grouped False", "tiny: decoding, 4 beams, batch 2"])
def test_what_is_compiled_compiles(name: str) -> None:
    plan = replace(PLAN, training_sizes=(replace(SMALL, layers=1),), decoding_sizes=(replace(SMALL, layers=1),))
    assert len(dict(device_measurements(plan, seed=0, rounds=5))[name]()) in (3, 4)


def test_decoding_is_compared_with_the_same_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"BART, SDPA, dynamic cache": 6.0, "BART, SDPA, static cache, torch.compile": 5.0}
    seconds |= {"ours, dynamic cache": 3.0, "ours, static cache, torch.compile": 1.0}
    caches: dict[str, str | None] = {}

    def race(runs: dict, **settings: object) -> Race:
        caches.update({name: run.settings.get("cache_implementation") for name, run in runs.items()})
        return Race(8, {name: [second] * 5 for name, second in seconds.items()})

    monkeypatch.setattr(device_mode, "race", race)
    figures = device_mode.measure_device_decoding(PLAN, SMALL, beams=1, batch_size=2, seed=0, rounds=5)
    assert [figure.ratio for figure in figures] == [2.0, 5.0, None, None]
    assert list(caches.values()) == [None, "static"] * 2


def test_a_cards_plan_has_both_sizes_and_batches_up_to_256() -> None:
    names = [name for name, _ in device_measurements(PLANS["cuda"], seed=0, rounds=5)]
    assert len(set(names)) == len(names)
    assert {"base: training, grouped False", "large: training, grouped True"} < set(names)
    assert {"base: decoding, 1 beams, batch 1", "base: decoding, 4 beams, batch 256"} < set(names)
    assert {"base: long targets, ssru, batch 1", "base: long targets, lstm, batch 64"} < set(names)
    assert [(size.width, size.layers) for size in PLANS["cuda"].training_sizes] == [(512, 6), (1024, 12)]


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"`--device cuda` needs a card .* or try the code with `--device cpu`"):
        check_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_device("cuda")


class FakeCard:
    """Counts bytes and synchronisations as torch.cuda does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allocated = self.peak = self.waits = 0
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: self.allocated)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: self.peak)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: setattr(self, "peak", self.allocated))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: setattr(self, "waits", self.waits + 1))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")

    def take(self, count: int) -> None:
        self.allocated += count
        self.peak = max(self.peak, self.allocated)


def test_memory_is_that_of_one_contestant_with_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    card, model = FakeCard(monkeypatch), torch.nn.Linear(2**9, 2**9, bias=False)  # 1 MiB
    card.take(70 * 2**20)  # of others and of the model
    card.take(-(20 * 2**20))

    def run() -> int:
        card.take(5 * 2**20)
        card.take(-(3 * 2**20))
        return 1

    assert peak_mib(run, model, "cuda") == 5 + 1
    assert peak_mib(run, model, "cpu") is None


def test_a_cards_clock_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    card = FakeCard(monkeypatch)
    assert wall_clock("cuda")() <= wall_clock("cuda")()
    assert card.waits == 2
    wall_clock("cpu")()
    assert card.waits == 2


def test_facts_name_card_peak_and_how_flops_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCard(monkeypatch)
    facts = device_facts(PLANS["cuda"])
    for part in (
        "Device: NVIDIA H100 80GB HBM3 (bf16 peak 989 TFLOP/s, dense)",
        "FLOPs of the model's matrix products over real tokens",
        "Size large: width 1024, feed-forward 4096, 12+12 layers, 16 heads",
    ):
        assert part in facts
    assert facts.count("Size base") == 1
    assert "not in the table of peaks" in device_facts(PLANS["cpu"])


def test_compiled_code_is_forgotten_also_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[int] = []
    monkeypatch.setattr(device_mode.torch, "_dynamo", SimpleNamespace(reset=lambda: resets.append(1)))

    def fail() -> list[DeviceFigure]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        device_mode.afresh(fail)
    assert device_mode.afresh(list) == []
    assert resets == [1, 1]

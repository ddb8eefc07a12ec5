"""`python -m benchmarks.recurrent`: recurrent decoders beside plain torch and beside Transformers of the same size."""

import argparse
import statistics
import time
from dataclasses import replace

import torch
from transformers.utils import logging

from .batches import padding_share, source_batch, training_batches
from .decoding_speed import Decoding
from .interleaved import MIN_ROUNDS, Contestant, race, spread_of
from .lengths import sentence_lengths
from .peers_recurrent import PlainGreedy, build_plain, build_recurrent, check_equal_parameters
from .peers_transformers import build_bart, build_ours
from .plots import PLOTS, plot_curves
from .results import RESULTS, Figure, circumstances, speed_figure, table, write_section
from .sizes import TINY
from .token_times import state_bytes, token_seconds
from .training_speed import TrainingPass

SIZE = replace(TINY, name="recurrent", layers=2)
NEW_TOKENS = 64
LONG = 1024
"""Generated tokens of the longest run."""

PLOT = PLOTS / "time_per_token.png"

EQUAL = (
    "data, number of weights (checked), float32, dropout 0.1 (`nn.GRU` and `nn.LSTM` leave it out after the last "
    "layer), AdamW, batch size, number of generated tokens (the end token is one that no model has). Not equal: the "
    "plain encoder reads the padding"
)


def measure_training(cell_type: str, attention_type: str, *, grouped: bool, seed: int, rounds: int) -> Figure:
    """Real tokens a second of training steps against plain torch; no target on length-grouped batches."""
    batches = training_batches(grouped=grouped, vocab_size=SIZE.vocab, seed=seed)
    plain = build_plain(SIZE, cell_type, attention_type, seed)
    ours = build_recurrent(SIZE, cell_type, attention_type, seed)
    check_equal_parameters(ours, plain)
    name = f"plain nn.{cell_type.upper()}"
    contestants = {name: TrainingPass(plain, batches, loss=plain.loss), "ours": TrainingPass(ours, batches)}
    kind = "length-grouped" if grouped else "random"
    return speed_figure(
        f"training, {cell_type}, {attention_type} attention, {kind} batches of 32",
        race(contestants, rounds=rounds),
        "ours",
        name,
        target=None if grouped else 1.5,
        note=f"{padding_share(batches):.0%} of the positions are padding",
    )


def measure_decoding(batch_size: int, *, seed: int, rounds: int) -> list[Figure]:
    """Greedy decoding of a GRU against the bare loop, and against BART of the same width and depth."""
    lengths = [32] if batch_size == 1 else sentence_lengths(batch_size, seed)
    source = source_batch(lengths, SIZE.vocab, seed)
    plain, ours = build_plain(SIZE, "gru", "dot", seed), build_recurrent(SIZE, "gru", "dot", seed)
    check_equal_parameters(ours, plain)
    contestants: dict[str, Contestant] = {
        "plain GRU loop": PlainGreedy(plain, source, new_tokens=NEW_TOKENS),
        "ours": Decoding(ours, source, new_tokens=NEW_TOKENS),
        "BART": Decoding(build_bart(SIZE, seed), source, new_tokens=NEW_TOKENS),
    }
    result = race(contestants, rounds=rounds)
    name, note = f"greedy, gru, dot attention, batch {batch_size}", f"{NEW_TOKENS} new tokens"
    return [
        speed_figure(name, result, "ours", "plain GRU loop", target=0.9, note=note),
        speed_figure(name, result, "ours", "BART", note=note),
    ]


def measure_long_outputs(*, seed: int, rounds: int, plot: bool) -> list[Figure]:
    """Time of a token at the end of a long output against its beginning, and bytes of the decoding state."""
    source = source_batch([32], SIZE.vocab, seed)
    models = {
        "ours, gru": build_recurrent(SIZE, "gru", "dot", seed),
        "ours, Transformer": build_ours(build_bart(SIZE, seed)),
    }
    runs = {name: Decoding(model, source, new_tokens=LONG) for name, model in models.items()}
    brief = {name: Decoding(model, source, new_tokens=NEW_TOKENS) for name, model in models.items()}
    seconds: dict[str, list[list[float]]] = {name: [] for name in runs}
    beginnings: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        token_seconds(run)
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(token_seconds(run))
            # Beginnings before and after the long output: a machine that becomes slower meanwhile does not count.
            pair = (seconds[name][-1][:NEW_TOKENS], token_seconds(brief[name]))
            beginnings[name].append(statistics.mean(statistics.median(one) for one in pair))
    figures = []
    for name, measured in seconds.items():
        ends = [statistics.median(one[-NEW_TOKENS:]) for one in measured]
        starts = beginnings[name]
        spread = spread_of([end / start for end, start in zip(ends, starts, strict=True)])
        is_recurrent = name == "ours, gru"
        figures.append(
            Figure(
                f"{name}: time of a token around {LONG:,} generated tokens",
                spread.median,
                spread.lower,
                spread.upper,
                1000 * statistics.median(ends),
                1000 * statistics.median(starts),
                reference_name=f"the first {NEW_TOKENS}",
                unit="ms",
                target=1.1 if is_recurrent else None,
                at_most=True,
            )
        )
        sizes = [state_bytes(Decoding(models[name], source, new_tokens=count)) / 1024 for count in (LONG, NEW_TOKENS)]
        ratio = sizes[0] / sizes[1]
        figures.append(
            Figure(
                f"{name}: decoding state after {LONG:,} generated tokens",
                ratio,
                ratio,
                ratio,
                sizes[0],
                sizes[1],
                reference_name=f"after {NEW_TOKENS}",
                unit="KiB",
                target=1.0 if is_recurrent else None,
                at_most=True,
            )
        )
    if plot:
        curves = {name: curve(measured) for name, measured in seconds.items()}
        plot_curves(
            PLOT,
            curves,
            title=f"Greedy, batch 1, {SIZE.layers}+{SIZE.layers} layers, width {SIZE.width}, one CPU thread",
            x_label="generated tokens",
            y_label="CPU time of a token, ms",
        )
    return figures


def curve(measured: list[list[float]], bucket: int = 32) -> tuple[list[float], list[float]]:
    """Positions and milliseconds: the median over all rounds in buckets of `bucket` tokens."""
    starts = range(0, len(measured[0]), bucket)
    times = [
        1000 * statistics.median(second for one in measured for second in one[start : start + bucket])
        for start in starts
    ]
    return [float(start + bucket // 2) for start in starts], times


def run(seed: int, rounds: int, write: bool) -> None:
    """Print every figure; with `write` put them into the results and draw the plot."""
    start, figures = time.monotonic(), []

    def show(new: list[Figure]) -> None:
        for figure in new:
            print(figure.line(), flush=True)
        figures.extend(new)

    for cell_type in ("gru", "lstm"):
        for attention_type in ("dot", "general"):
            show([measure_training(cell_type, attention_type, grouped=False, seed=seed, rounds=rounds)])
        show([measure_training(cell_type, "dot", grouped=True, seed=seed, rounds=rounds)])
    for batch_size in (1, 32):
        show(measure_decoding(batch_size, seed=seed, rounds=rounds))
    show(measure_long_outputs(seed=seed, rounds=rounds, plot=write))
    print(f"{time.monotonic() - start:.0f} s, {time.process_time():.0f} s of CPU time")
    if write:
        facts = circumstances("python -m benchmarks.recurrent --write", seed=seed, equal=EQUAL)
        picture = f"![time of a token](plots/{PLOT.name})"
        body = f"{facts}- Size {SIZE.describe()}\n\n{table(figures)}\n{picture}\n"
        write_section("recurrent", "Recurrent decoders, one CPU thread", body)
        print(f"Written to {RESULTS} and {PLOT}")


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recurrent", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the figures into benchmarks/RESULTS.md, with a plot")
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS, help="pairs for each figure (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    run(options.seed, options.rounds, options.write)


if __name__ == "__main__":
    main()

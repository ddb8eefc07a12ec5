"""The short mode: BART beside our model of its shape and weights, size tiny, under ten minutes on two cores."""

from collections.abc import Callable, Iterator
from functools import partial

from .measurements import measure_decoding, measure_training
from .results import Figure
from .sizes import TINY

Measurement = Callable[[], list[Figure]]


def short_measurements(seed: int, rounds: int) -> Iterator[tuple[str, Measurement]]:
    """Everything that the short mode measures, by name and in order."""
    for grouped, target in ((False, 2.5), (True, 1.1)):
        yield (
            f"training, grouped {grouped}",
            partial(measure_training, TINY, grouped=grouped, seed=seed, rounds=rounds, target=target),
        )
    for beams, batch_size, source_length, target in (
        (1, 1, 32, 1.7),
        (1, 32, None, 1.4),
        (4, 1, 32, 2.5),
        (4, 8, 256, 2.0),
        (4, 8, 1024, 3.0),
    ):
        yield (
            f"decoding, {beams} beams, batch {batch_size}, source {source_length}",
            partial(
                measure_decoding,
                TINY,
                beams=beams,
                batch_size=batch_size,
                source_length=source_length,
                seed=seed,
                rounds=rounds,
                target=target,
            ),
        )

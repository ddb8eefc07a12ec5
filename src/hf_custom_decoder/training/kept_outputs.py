"""Outputs of a model for many texts, kept as they come, so that an interrupted run goes on."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .progress_bar import progress_over

Generate = Callable[[Iterator[str]], Iterator[str]]


def kept_outputs(
    sources: Sequence[str],
    generate: Generate,
    partial: Path,
    *,
    settings: dict[str, Any],
    batch_size: int,
    fresh: bool = False,
) -> list[str]:
    """Generates for every source, or for those that an interrupted run has left.

    Sources are taken by length, long ones first (a batch that is too large for the memory fails at once). The file
    keeps whole batches only, so that a resumed run makes the same batches and the same outputs.

    Args:
        sources (`Sequence[str]`): What to generate for.
        generate (`Callable[[Iterator[str]], Iterator[str]]`): Yields one text for each, batch by batch.
        partial (`Path`): The file where outputs are kept; the caller removes it.
        settings (`dict[str, Any]`): What must be the same when a run is continued.
        batch_size (`int`): Sources of a batch of `generate`.
        fresh (`bool`, *optional*, defaults to `False`): Forget what an interrupted run has left.

    Returns:
        `list[str]`: In the order of `sources`.

    Raises:
        ValueError: If the file is none of ours, or was begun with other settings.
    """
    order = sorted(range(len(sources)), key=lambda idx: -len(sources[idx]))
    digest = hashlib.sha256("\n".join(sources).encode()).hexdigest()
    header = {"outputs_kept_by": "hf_custom_decoder", **settings, "batch_size": batch_size, "texts": digest}
    lines = [json.dumps(header, ensure_ascii=False)]
    if partial.exists():
        stored = _read(partial, {} if fresh else header)
        lines = lines if fresh else stored
    num_whole = (len(lines) - 1) // batch_size * batch_size
    lines = lines[: num_whole + 1]
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)
        stream.flush()
        remaining = [sources[idx] for idx in order[num_whole:]]
        shown = progress_over(generate(iter(remaining)), len(remaining), "generating", "texts")
        for number, text in enumerate(shown, start=1):
            lines.append(json.dumps(text, ensure_ascii=False))
            stream.write(f"{lines[-1]}\n")
            if number % batch_size == 0:
                stream.flush()
    outputs = {idx: json.loads(line) for idx, line in zip(order, lines[1:], strict=True)}
    return [outputs[idx] for idx in range(len(sources))]


def _read(partial: Path, header: dict[str, Any]) -> list[str]:
    """Returns the whole lines of a file, after a look at its first."""
    text = partial.read_text(encoding="utf-8", errors="replace")
    lines = text.split("\n")[:-1]  # what stands after the last line end is torn
    try:
        stored = json.loads(lines[0])
        is_ours = stored["outputs_kept_by"] == "hf_custom_decoder"
    except (IndexError, KeyError, TypeError, ValueError):
        is_ours = False
    if not is_ours:
        raise ValueError(f"{partial} must be a new file or what an interrupted run has left. Choose another name.")
    for name, value in header.items():
        if stored.get(name) != value:
            raise ValueError(
                f"`{name}` must be the same when a run is continued: {partial} was begun with {stored.get(name)!r}, "
                f"got {value!r}. Use the earlier value, or `--fresh`."
            )
    return lines

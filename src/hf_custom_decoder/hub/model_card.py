"""The model card: README.md with metadata that the Hub reads, filled from what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from ..atomic_files import write_text


@dataclass(frozen=True)
class Measurement:
    """One figure of the card's results.

    Attributes:
        metric_type (`str`): Name of the metric on the Hub, such as "wer".
        metric_name (`str`): Name for readers, unit included.
        value (`float`): The figure.
        settings (`str`): How it was measured: search, beams, what counts as right.
    """

    metric_type: str
    metric_name: str
    value: float
    settings: str


@dataclass(frozen=True)
class ModelCardContents:
    """All that a card has to say.

    Attributes:
        title (`str`): The model's name.
        summary (`str`): One or two sentences on what it does.
        language (`str` or `list[str]`): Code of the language, or several.
        license (`str`): Licence of the model, as the Hub spells it.
        task (`str`): Pipeline tag of the Hub.
        dataset_id (`str`): Short name of the data.
        dataset_name (`str`): Its name for readers.
        dataset_split (`str`): What the figures were measured on.
        loading_code (`str`): Python code that loads the model and uses it, complete.
        data (`str`): Where the data comes from, its licence, and how it was split; Markdown.
        training (`str`): How and at which cost it was trained; Markdown.
        evaluation (`str`): What the metrics mean, and any further results; Markdown.
        limits (`str`): What the model is bad at; Markdown.
        measurements (`Sequence[Measurement]`): The figures, at least one.
        base_model (`str`, *optional*): Of an adapter, the model that it stands on.
    """

    title: str
    summary: str
    language: str | list[str]
    license: str
    task: str
    dataset_id: str
    dataset_name: str
    dataset_split: str
    loading_code: str
    data: str
    training: str
    evaluation: str
    limits: str
    measurements: Sequence[Measurement]
    base_model: str | None = None


def render_model_card(contents: ModelCardContents) -> str:
    """Writes the card as Markdown with YAML metadata at its head.

    Args:
        contents ([`ModelCardContents`]): What to say; no text may be blank.

    Returns:
        `str`: The text of README.md.

    Raises:
        ValueError: If a text is blank or there is no measurement.
    """
    blank = [name for name, value in vars(contents).items() if isinstance(value, str) and not value.strip()]
    if blank or not contents.measurements:
        raise ValueError(
            f"A model card must be complete, found nothing in {blank or ['measurements']}. Fill every field."
        )
    metadata = ModelCardData(
        language=contents.language,
        license=contents.license,
        library_name="transformers" if contents.base_model is None else "peft",
        base_model=contents.base_model,
        pipeline_tag=contents.task,
        tags=["encoder-decoder", "custom_code"],
        datasets=[contents.dataset_id],
        metrics=sorted({measurement.metric_type for measurement in contents.measurements}),
        model_name=contents.title,
        eval_results=[
            EvalResult(
                task_type=contents.task,
                dataset_type=contents.dataset_id,
                dataset_name=contents.dataset_name,
                dataset_split=contents.dataset_split,
                metric_type=measurement.metric_type,
                metric_name=measurement.metric_name,
                metric_value=round(measurement.value, 4),
            )
            for measurement in contents.measurements
        ],
    )
    rows = "\n".join(
        f"| {measurement.metric_name} | {measurement.value:.2f} | {measurement.settings} |"
        for measurement in contents.measurements
    )
    return f"""---
{metadata.to_yaml()}
---

# {contents.title}

{contents.summary.strip()}

## How to load it

```python
{contents.loading_code.strip()}
```

## Results

On {contents.dataset_name}, {contents.dataset_split}:

| metric | value | settings |
| --- | ---: | --- |
{rows}

{contents.evaluation.strip()}

## Data and licence

{contents.data.strip()}

## Training

{contents.training.strip()}

## What it is bad at

{contents.limits.strip()}
"""


def write_model_card(folder: str | Path, contents: ModelCardContents) -> Path:
    """Writes README.md into a model's folder, complete or not at all.

    Args:
        folder (`str` or `Path`): The folder that `save_pretrained` has written.
        contents ([`ModelCardContents`]): What to say.

    Returns:
        `Path`: The file.
    """
    path = Path(folder) / "README.md"
    write_text(path, render_model_card(contents))
    return path

"""The metrics of this package as modules of the library `evaluate`, loaded from folders of the package."""

from pathlib import Path
from typing import Any

from .perplexity import perplexity
from .text_metrics import MAIN_SCORES, score_texts

METRICS_FOLDER = Path(__file__).parent / "metrics"
MODULE_NAMES = (*MAIN_SCORES, "perplexity")


def metric_path(name: str) -> str:
    """The folder to give to `evaluate.load`; it is read without a network.

    Args:
        name (`str`): Metric as a recipe names it.

    Returns:
        `str`: Its path.

    Raises:
        ValueError: If there is no such metric.
    """
    if name not in MODULE_NAMES:
        raise ValueError(f"`name` must be one of {', '.join(MODULE_NAMES)}, got {name!r}.")
    return str(METRICS_FOLDER / name)


def metric_class(name: str) -> type:
    """Builds the class of a module; the files in `metrics` call it.

    `compute` takes `predictions` (texts) and `references` (a text or a list of texts each), and `language` as
    [`score_texts`] does. It returns the figures by name, and under "settings" how they were computed. Perplexity takes
    `nats` (of a whole text), `num_tokens` and `texts` in their place, as [`pair_perplexity`] sums them.

    Args:
        name (`str`): Metric as a recipe names it.

    Returns:
        `type`: A subclass of `evaluate.Metric`.
    """
    import datasets
    import evaluate

    text = datasets.Value("string")
    features: Any
    if name == "perplexity":
        features = datasets.Features(
            {"nats": datasets.Value("float64"), "num_tokens": datasets.Value("int64"), "texts": text}
        )
        description = "Perplexity a token, and a byte of the text in UTF-8, from sums that a model has computed."
    else:
        features = [
            datasets.Features({"predictions": text, "references": datasets.List(text)}),
            datasets.Features({"predictions": text, "references": text}),
        ]
        description = score_texts.__doc__ or ""

    class Module(evaluate.Metric):
        def _info(self) -> Any:
            return evaluate.MetricInfo(
                description=description,
                citation="",
                inputs_description=metric_class.__doc__,
                features=features,
            )

        def _compute(self, **inputs: Any) -> dict[str, Any]:
            return _perplexity(**inputs) if name == "perplexity" else _scores(name, **inputs)

    Module.__name__ = Module.__qualname__ = "".join(part.capitalize() for part in name.split("_"))
    return Module


def _scores(
    name: str, *, predictions: list[str], references: list[Any], language: str | None = None
) -> dict[str, Any]:
    listed = [[one] if isinstance(one, str) else list(one) for one in references]
    scores = score_texts([name], list(predictions), listed, language=language)
    figures: dict[str, Any] = {score_name: score.value for score_name, score in scores.items()}
    return {**figures, "settings": scores[MAIN_SCORES[name]].settings}


def _perplexity(*, nats: list[float], num_tokens: list[int], texts: list[str]) -> dict[str, Any]:
    tokens, num_bytes = sum(num_tokens), sum(len(text.encode()) for text in texts)
    if not tokens or not num_bytes:
        raise ValueError(f"There must be tokens and bytes to measure on, got {tokens} and {num_bytes}.")
    return {
        "perplexity": perplexity(sum(nats) / tokens),
        "perplexity_per_byte": perplexity(sum(nats) / num_bytes),
        "settings": f"{tokens} tokens, {num_bytes} bytes",
    }

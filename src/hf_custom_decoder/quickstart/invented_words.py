"""Words that nobody has spelled before, to hear what the model makes of them."""

from collections.abc import Container

INVENTED_WORDS = (
    "blorptastic",
    "snorfle",
    "quizzibrate",
    "glimmerwick",
    "frumplestein",
    "zorbify",
    "wugglesome",
    "chortlington",
    "brindlewhack",
    "phlogistify",
    "trundlebee",
    "vexatronic",
    "knoodle",
    "splendiferation",
    "crumbulent",
)
"""In lower-case letters; more than are shown, should a future dictionary take one up."""


def words_outside(dictionary: Container[str], count: int) -> list[str]:
    """Returns invented words, having looked each of them up.

    Args:
        dictionary (`Container[str]`): All known words, in lower case.
        count (`int`): How many to return.

    Returns:
        `list[str]`: The first `count` that are not in the dictionary.

    Raises:
        ValueError: If the dictionary leaves fewer than that.
    """
    words = [word for word in INVENTED_WORDS if word not in dictionary]
    if len(words) < count:
        raise ValueError(
            f"`count` must be at most {len(words)}, the invented words not in the dictionary, got {count}."
        )
    return words[:count]

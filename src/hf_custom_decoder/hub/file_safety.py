"""Whether the files of a folder are what their names say, found before a library reads them."""

import json
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 256 * 2**20
"""Of a tokenizer or an index; the largest known are under 50 MiB."""

MAX_CONFIG_BYTES = 2**20
MAX_DEPTH = 64
"""Objects and lists within each other in a JSON file; configs have under ten."""

MAX_TOKEN_ID = 2**28
OBJECTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "adapter_config.json",
)
"""Files that must hold one JSON object."""


def check_files(folder: Path) -> list[str]:
    """
    What is wrong with the files that loading would read, in words; empty where nothing is.

    Every file is a regular one (a link may lead to one, as in the cache of huggingface_hub); a JSON file is not too
    large, not too deep, and an object where it must be; an index names weight files of its own folder.

    Args:
        folder (`Path`): Written by `save_pretrained`, or by a stranger.
    """
    problems = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            continue
        if not path.is_file():
            problems.append(f"{path.name} is no regular file.")
        elif path.suffix == ".json":
            problems.extend(f"{path.name} {problem}." for problem in _check_json(path))
    return problems


def _check_json(path: Path) -> list[str]:
    limit = MAX_CONFIG_BYTES if path.stem.endswith("config") else MAX_JSON_BYTES
    if path.stat().st_size > limit:
        return [f"is larger than {limit // 2**20} MiB"]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        return [f"is nested deeper than {MAX_DEPTH}"]
    except ValueError:  # not JSON, or not UTF-8
        return ["is no JSON"]
    if _is_deep(content):
        return [f"is nested deeper than {MAX_DEPTH}"]
    is_index = path.name.endswith(".index.json")
    if (is_index or path.name in OBJECTS) and not isinstance(content, dict):
        return [f"must hold an object, it has a {type(content).__name__}"]
    if is_index:
        return _check_index(content)
    if path.name == "tokenizer.json":
        return _check_added_tokens(content.get("added_tokens"))
    return []


def _check_index(content: dict[str, Any]) -> list[str]:
    names = content.get("weight_map")
    if not isinstance(names, dict) or not isinstance(content.get("metadata"), dict):
        return ["must hold the objects `weight_map` and `metadata`"]
    for name in names.values():
        is_plain = isinstance(name, str) and Path(name).name == name and "\\" not in name
        if not is_plain or Path(name).suffix not in (".safetensors", ".bin"):
            return [f"must name weight files of its own folder, it names {name!r}"]
    return []


def _check_added_tokens(tokens: Any) -> list[str]:
    for token in tokens if isinstance(tokens, list) else []:
        number = token.get("id") if isinstance(token, dict) else None
        if not isinstance(number, int) or not 0 <= number < MAX_TOKEN_ID:
            return [f"has an added token with the id {number!r}"]
    return []


def _is_deep(content: Any) -> bool:
    """Whether objects and lists go deeper than `MAX_DEPTH`; without recursion."""
    level = [content] if isinstance(content, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        inner = [
            list(one.values()) if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list))
        ]
        level = [one for group in inner for one in group if isinstance(one, (dict, list))]
        if not level:
            return False
    return True

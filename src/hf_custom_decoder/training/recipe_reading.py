"""Recipes from YAML files and from the command line, with every mistake named at once where it stands."""

import difflib
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Union

import yaml

from .recipe_options import Recipe

ALTERNATIVES = {
    "training.max_steps": "training.epochs",
    "training.epochs": "training.max_steps",
    "training.max_tokens": "training.batch_size",
    "training.batch_size": "training.max_tokens",
}
"""Options of which one only may be given: naming one on the command line takes the other out of the file."""


def read_recipe(path: str | Path | None, overrides: dict[str, str] | None = None) -> Recipe:
    """Reads a recipe.

    Args:
        path (`str` or `Path`, *optional*): A YAML file; without it every option has its default.
        overrides (`dict[str, str]`, *optional*): Options by their name ("training.max_steps", or "max_steps" where
            one section only has it), and their values as YAML.

    Returns:
        [`Recipe`]: Complete and checked.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no YAML, an option is unknown (the nearest known one is named), or a value breaks its
            rule.
    """
    content: Any = {}
    if path is not None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"A recipe must be a YAML file, found none at {path}.")
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
            _check_keys(path, yaml.compose(text, Loader=yaml.SafeLoader))
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is no valid YAML: {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} must be UTF-8, but byte {error.start:,} is {error.object[error.start]:#04x}."
            ) from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ValueError(f"A recipe must hold sections by name, {path} holds {type(content).__name__}.")
    for name, text in (overrides or {}).items():
        _override(content, name, text)
    return recipe_from_dict(content)


def _check_keys(path: str | Path, node: yaml.Node | None) -> None:
    """Raises a `ValueError` for a name that stands twice in one place, of which YAML would forget the first."""
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise ValueError(f"{path} gives `{name}` twice, in lines {lines[name]} and {line}. Join them.")
            lines[name] = line
            _check_keys(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(path, item)


def recipe_from_dict(content: dict[str, Any]) -> Recipe:
    """Builds a recipe from nested dicts; raises as [`read_recipe`] does."""
    recipe: Recipe = _build(Recipe, content, "")
    return recipe


def recipe_to_yaml(recipe: Recipe) -> str:
    """Writes a recipe with all options as YAML that [`read_recipe`] reads back to an equal one."""
    text: str = yaml.safe_dump(asdict(recipe), sort_keys=False, allow_unicode=True)
    return text


def take_overrides(arguments: Sequence[str], known: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Separates `--option value` and `--option=value` of a recipe from a command's own arguments.

    Args:
        arguments (`Sequence[str]`): Of the command line.
        known (`Iterable[str]`): Names of the command's own options, without dashes.

    Returns:
        `tuple[list[str], dict[str, str]]`: What is left, and the recipe's options with their texts.

    Raises:
        ValueError: If an option has no value.
    """
    own = {f"--{name}" for name in known} | {"--help", "-h"}
    left: list[str] = []
    overrides: dict[str, str] = {}
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or name in own:
            left.append(argument)
            continue
        if not equals:
            following = next(remaining, None)
            if following is None or (following.startswith("--")):
                raise ValueError(f"`{name}` needs a value, got {following or 'the end of the line'}.")
            value = following
        overrides[name.removeprefix("--")] = value
    return left, overrides


def _override(content: dict[str, Any], name: str, text: str) -> None:
    """Puts one option into nested dicts, by its full or its short name."""
    parts = _full_name(name).split(".")
    value = _read_value(text, _kinds_of(parts))
    section = content
    for part in parts[:-1]:
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise ValueError(f"`{name}` cannot be set: `{part}` holds {section!r} and no options.")
    section[parts[-1]] = value
    other = ALTERNATIVES.get(".".join(parts))
    if other is not None and value is not None:
        section.pop(other.split(".")[1], None)


def _read_value(text: str, kinds: tuple[Any, ...]) -> Any:
    """What a value on the command line means: for an option that is a text itself, unless it is null or quoted."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text  # such as a text with a colon in it
    if str not in kinds or isinstance(value, list):
        return value
    is_null = value is None and type(None) in kinds
    return value if is_null or (isinstance(value, str) and text.strip()[:1] in "'\"") else text


def _kinds_of(parts: list[str]) -> tuple[Any, ...]:
    """The types that an option takes; `(None,)` for an unknown option and for the fields of a config."""
    kind: Any = Recipe
    for part in parts:
        if is_dataclass(kind):
            kind = typing.get_type_hints(kind).get(part)
        else:  # a section by a free name
            kind = _named_sections(kind)
    return _alternatives(kind)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is Union
    return typing.get_args(hint) if is_union else (hint,)


def _full_name(name: str) -> str:
    """`max_steps` becomes `training.max_steps`; a name that two sections have is refused."""
    sections = {section.name: section.type for section in fields(Recipe)}
    if name.partition(".")[0] in sections:
        return name
    owners = [
        section
        for section, kind in sections.items()
        if is_dataclass(kind) and name.partition(".")[0] in {option.name for option in fields(kind)}
    ]
    if len(owners) > 1:
        raise ValueError(
            f"`--{name}` is an option of several sections. Write {' or '.join(f'--{o}.{name}' for o in owners)}."
        )
    return f"{owners[0]}.{name}" if owners else name


def _build(kind: type, content: Any, prefix: str) -> Any:
    content = _section(content, prefix.rstrip("."))
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in content.items():
        if name not in hints:
            raise ValueError(describe_unknown(f"{prefix}{name}", list(hints), prefix))
        hint = hints[name]
        if is_dataclass(hint):
            values[name] = _build(typing.cast(type, hint), {} if value is None else value, f"{prefix}{name}.")
        elif named := _named_sections(hint):
            values[name] = {
                str(key): _build_named(named, {} if options is None else options, name, str(key))
                for key, options in _section({} if value is None else value, f"{prefix}{name}").items()
            }
        else:
            values[name] = _convert(value, hint, f"{prefix}{name}")
    return kind(**values)


def _section(content: Any, name: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"`{name}` must hold options by name, got {content!r}.")
    return content


def _build_named(kind: type, content: Any, section: str, key: str) -> Any:
    """One of the sections by free names; its own rules know that name as a star."""
    try:
        return _build(kind, content, f"{section}.{key}.")
    except ValueError as error:
        raise ValueError(str(error).replace(f"`{section}.*.", f"`{section}.{key}.")) from error


def _named_sections(hint: Any) -> type | None:
    """The dataclass of a dict of sections by free names; None for other options."""
    kind = typing.get_args(hint)[1] if typing.get_origin(hint) is dict else None
    return kind if isinstance(kind, type) and is_dataclass(kind) else None


def describe_unknown(name: str, siblings: list[str], prefix: str) -> str:
    """Says which known option is nearest, first among those of the same section."""
    last = name.removeprefix(prefix)
    nearest = difflib.get_close_matches(str(last), siblings, n=1, cutoff=0.6)
    full = [f"{prefix}{option}" for option in nearest]
    if not full:
        everywhere = {
            option.name: f"{section.name}.{option.name}"
            for section in fields(Recipe)
            if is_dataclass(section.type)
            for option in fields(section.type)
        }
        full = [
            everywhere[option]
            for option in difflib.get_close_matches(str(last).rpartition(".")[2], list(everywhere), n=1, cutoff=0.6)
        ]
    remedy = f"Did you mean `{full[0]}`?" if full else f"Known here: {', '.join(siblings)}."
    return f"`{name}` is no option of a recipe. {remedy}"


def _convert(value: Any, hint: Any, name: str) -> Any:
    """Checks a value against the type of its option; YAML reads 1e-3 as a text, so numbers in texts are taken."""
    kinds = _alternatives(hint)
    if value is None:
        if type(None) in kinds:
            return None
    elif isinstance(value, bool):
        if bool in kinds:
            return value
    elif isinstance(value, dict):
        if any(typing.get_origin(kind) is dict for kind in kinds):
            return dict(value)
    elif any(typing.get_origin(kind) is list for kind in kinds) and (isinstance(value, list) or str not in kinds):
        items = value if isinstance(value, list) else str(value).split(",")
        return [str(item).strip() for item in items]
    elif not isinstance(value, list):
        if int in kinds and (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
            return int(value)
        if float in kinds:
            try:
                return float(value)
            except ValueError:
                pass
        if str in kinds:
            return str(value)
    names = " or ".join("nothing" if kind is type(None) else getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise ValueError(f"`{name}` must be {names}, got {value!r}.")

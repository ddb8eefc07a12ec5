"""What a folder must be before it goes to the Hub; each check returns what is wrong, in words."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from .adapter_folder import ADAPTER_CONFIG, check_base, is_adapter_folder
from .file_safety import check_files

PICKLE_SUFFIXES = (".bin", ".ckpt", ".dill", ".joblib", ".msgpack", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth")
"""Formats that run code when they are read, or may."""

TEXT_SUFFIXES = (".cff", ".csv", ".jinja", ".json", ".jsonl", ".md", ".py", ".toml", ".tsv", ".txt", ".yaml", ".yml")
MAX_TEXT_BYTES = 64 * 1024 * 1024

_SECRETS = (
    ("a token of the Hugging Face Hub", r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}\b"),
    ("a GitHub token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})\b"),
    ("an AWS key", r"\bA(?:KI|SI)A[0-9A-Z]{16}\b"),
    ("an API key", r"\bsk-(?:[a-z]+-)?[A-Za-z0-9_-]{32,}"),
    ("a Google API key", r"\bAIza[0-9A-Za-z_-]{35}\b"),
    ("a Slack token", r"\bxox[abprs]-[0-9A-Za-z-]{10,}"),
    ("a private key", r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
)
# Of a home, a mount or a temporary folder; a path such as /usr/bin says nothing of its owner.
_LOCAL_PATH = re.compile(
    r"(?<![\w.:/-])(?:file:/{1,2})?/(?:home|Users|root|mnt|media|data|srv|opt|scratch|tmp|var|work|workspace|content|kaggle)"
    r"(?:/[\w.+@~-]+)+"
    r"|(?<!\w)[A-Za-z]:(?:\\{1,2}|/)(?:Users|Documents|Temp|data)\b"
)
_SECTIONS = {
    "how it is loaded": "from_pretrained",
    "data": r"(?im)^#+ .*data",
    "limits": r"(?im)^#+ .*(?:limit|bad at)",
}
_PLACEHOLDER = re.compile(r"\[more information needed\]|\bTODO\b|<model[ -]name>", re.IGNORECASE)


def files_of(folder: Path) -> list[Path]:
    """All files below a folder, but hidden ones of version control."""
    return sorted(path for path in folder.rglob("*") if not path.is_dir() and ".git" not in path.parts)


def read_metadata(text: str) -> dict[str, object]:
    """The YAML block at the head of a card; empty where there is none."""
    match = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    try:
        found = yaml.safe_load(match.group(1)) if match else {}
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def check_card(folder: Path) -> list[str]:
    """The card is there, says how the model is loaded, names data and limits, and holds no placeholder."""
    path = folder / "README.md"
    if not path.is_file():
        return ["there is no README.md. Write one, e.g. with `hf_custom_decoder.hub.model_card`."]
    text = path.read_text(encoding="utf-8", errors="replace")
    problems = [
        f"README.md says nothing about {what}." for what, pattern in _SECTIONS.items() if not re.search(pattern, text)
    ]
    placeholder = _PLACEHOLDER.search(text)
    if placeholder:
        problems.append(f"README.md still holds {placeholder.group()!r}. Fill it in.")
    return problems


def check_licence_and_data(folder: Path) -> list[str]:
    """The card's metadata name a licence and the data."""
    path = folder / "README.md"
    metadata = read_metadata(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else {}
    return [
        f"the metadata at the head of README.md name no `{name}`. Add `{name}: ...` between the two lines of `---`."
        for name in ("license", "datasets")
        if not metadata.get(name)
    ]


def check_code(folder: Path) -> list[str]:
    """
    Every module that `auto_map` names lies in the folder, with those that it imports; the code of an adapter is that
    of the model that it stands on, which must be on the Hub.
    """
    path = folder / "config.json"
    if is_adapter_folder(folder):
        try:
            return check_base(json.loads((folder / ADAPTER_CONFIG).read_text("utf-8")).get("base_model_name_or_path"))
        except (ValueError, AttributeError):
            return [f"{ADAPTER_CONFIG} is no JSON object."]
    if not path.is_file():
        return ["there is no config.json."]
    try:
        auto_map = json.loads(path.read_text(encoding="utf-8")).get("auto_map") or {}
    except (ValueError, AttributeError):
        return ["config.json is no JSON object."]
    if not auto_map:
        return ["config.json has no `auto_map`: a stranger cannot load it. Save the model with `save_pretrained`."]
    if not isinstance(auto_map, dict):
        return [f"`auto_map` in config.json must be an object of `file.Class` by Auto class, got {auto_map!r}."]
    problems, seen, wanted = [], set(), []
    for reference in auto_map.values():
        if re.fullmatch(r"\w+\.\w+", str(reference)):
            wanted.append(str(reference).partition(".")[0])
        else:
            problems.append(f"`auto_map` in config.json names {reference!r}, no class of a file in this folder.")
    while wanted:
        module = wanted.pop()
        if module in seen:
            continue
        seen.add(module)
        source = folder / f"{module}.py"
        if not source.is_file():
            problems.append(f"{module}.py is missing, which the code in the folder needs.")
            continue
        wanted.extend(re.findall(r"(?m)^\s*from \.(\w+) import", source.read_text(encoding="utf-8")))
    return problems


def check_weights(folder: Path) -> list[str]:
    """Weights are there, in safetensors, and no file can run code when it is read."""
    problems = [
        f"{path.relative_to(folder)} may run code when it is read. Save weights as safetensors and remove it."
        for path in files_of(folder)
        if path.suffix.lower() in PICKLE_SUFFIXES or _begins_as_pickle(path)
    ]
    if not any(path.suffix == ".safetensors" for path in files_of(folder)):
        problems.append("there are no weights (no .safetensors file).")
    return problems


def check_privacy(folder: Path) -> list[str]:
    """No text file holds a secret or a path of this machine; no link leads out of the folder."""
    problems = []
    for path in files_of(folder):
        name = path.relative_to(folder)
        if path.is_symlink():
            problems.append(f"{name} is a link to {path.readlink()}. Put the file itself there.")
            continue
        if path.name in (".env", ".netrc", "credentials", "token", "id_rsa"):
            problems.append(f"{name} is a file of secrets by its name. Remove it.")
        if path.suffix.lower() not in TEXT_SUFFIXES and path.name not in ("LICENSE", "NOTICE", ".env"):
            continue
        if path.stat().st_size > MAX_TEXT_BYTES:
            problems.append(f"{name} is a text file of more than {MAX_TEXT_BYTES // 2**20} MiB, which was not read.")
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            for what, pattern in _SECRETS:
                if re.search(pattern, line):
                    problems.append(f"{name}, line {number}: {what}. Remove it, and revoke it.")
            local = _LOCAL_PATH.search(line)
            if local:
                problems.append(f"{name}, line {number}: a path of this machine ({local.group()}). Remove it.")
    return problems


def _begins_as_pickle(path: Path) -> bool:
    """Whether a file that says it is safetensors begins as a pickle or as a zip archive of torch."""
    if path.suffix != ".safetensors":
        return False
    with path.open("rb") as file:
        head = file.read(2)
    return head == b"PK" or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


CHECKS: Sequence[tuple[str, Callable[[Path], list[str]]]] = (
    ("files as they should be", check_files),
    ("card complete", check_card),
    ("licence and data named", check_licence_and_data),
    ("code travels", check_code),
    ("weights safe", check_weights),
    ("nothing private", check_privacy),
)

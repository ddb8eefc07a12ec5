"""
The rules for code that travels with a checkpoint, checked over every file of `models/`.

transformers finds the files to copy, and the packages to ask for, by searching the source text. What it finds has to
be what Python imports.
"""

import ast
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_import_files, get_relative_imports

import hf_custom_decoder.models

FOLDER = Path(hf_custom_decoder.models.__file__).parent
FILES = sorted(file for file in FOLDER.glob("*.py") if file.name != "__init__.py")
ALLOWED = {"torch", "transformers"}


def imports(file: Path) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]


def absolute_names(file: Path) -> set[str]:
    """Modules that a file imports by their full names."""
    found = set()
    for node in imports(file):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.level == 0:
            found.add(str(node.module))
    return found


def relative_names(file: Path) -> set[str]:
    """Neighbours that a file imports."""
    return {str(node.module) for node in imports(file) if isinstance(node, ast.ImportFrom) and node.level > 0}


def test_the_folder_is_flat() -> None:
    assert len(FILES) > 10
    assert not [path for path in FOLDER.rglob("*.py") if path.parent != FOLDER]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_neighbours_are_imported_in_the_one_form_that_is_copied(file: Path) -> None:
    """`from .name import Thing`: no package of ours, no dots within, nothing above, no stars."""
    for node in imports(file):
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            line = ast.unparse(node)
            assert node.level == 1, line
            assert node.module is not None, line
            assert "." not in node.module, line
            assert (FOLDER / f"{node.module}.py").exists(), line
            assert all(alias.name != "*" for alias in node.names), line


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_transformers_finds_exactly_what_is_imported(file: Path) -> None:
    """Its search by lines finds no more (a docstring line that looks like an import) and no less."""
    assert set(get_relative_imports(file)) == relative_names(file)
    needed: set[Path] = set()
    waiting = [file]
    while waiting:
        fresh = {FOLDER / f"{name}.py" for name in relative_names(waiting.pop())} - needed
        needed |= fresh
        waiting.extend(fresh)
    assert {Path(name) for name in get_relative_import_files(file)} == needed


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nothing_but_torch_transformers_and_the_standard_library_is_imported(file: Path) -> None:
    roots = {name.partition(".")[0] for name in absolute_names(file)}
    assert roots <= ALLOWED | sys.stdlib_module_names, roots
    assert set(get_imports(file)) <= ALLOWED | sys.stdlib_module_names  # what a stranger would be asked to install


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_imported_names_exist_in_this_version(file: Path) -> None:
    """Also those inside functions. The tests run on the oldest transformers that is supported, and on the newest."""
    for node in imports(file):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif node.level == 0:
            module: Any = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):  # then it must be a module inside the package
                    importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file_names_tell_what_they_hold_beside_foreign_weights(file: Path) -> None:
    """What it is, and of what: `cache.py` or `utils.py` could be anybody's."""
    assert any(f"_{name}" in file.stem for name in ("custom_seq2seq", "transformer_", "recurrent_"))
    assert file.stem not in sys.stdlib_module_names


def test_the_package_file_holds_nothing_that_models_need() -> None:
    """`__init__.py` is not copied."""
    body = ast.parse((FOLDER / "__init__.py").read_text()).body
    assert [type(node) for node in body] == [ast.Expr]  # its docstring

"""Every module of the package can be imported where only its core dependencies are installed.

A third environment would be the plain way to check it, and CI has one. Here a fresh process hides every installed
package that torch and transformers do not require, directly or through others, and imports all modules.
"""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from types import ModuleType
from typing import Any

PACKAGE = "hf_custom_decoder"
CORE = ("torch", "transformers")
FOR_PYTEST = (f"{PACKAGE}.testing.pytest_plugin",)  # only pytest imports it


def test_every_module_imports_with_the_core_dependencies_alone() -> None:
    result = subprocess.run(
        [sys.executable, "-P", __file__],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert result.returncode == 0, f"a module needs more than {' and '.join(CORE)} bring:\n{result.stderr}"
    report = json.loads(result.stdout.splitlines()[-1])
    assert {"pytest", "_pytest", "accelerate"} <= set(report["hidden"])
    assert not {"torch", "transformers", "numpy", "safetensors", "tokenizers"} & set(report["hidden"])
    assert PACKAGE in report["imported"]
    assert len(report["imported"]) > 1


# The rest runs in the fresh process.


class CorePathFinder(PathFinder):
    """The import system's own search, except that the top-level names in `hidden` are not found."""

    hidden: frozenset[str] = frozenset()

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in cls.hidden:
            return None
        return super().find_spec(fullname, path, target)


def requirement_closure(names: Iterable[str]) -> set[str]:
    """Returns the canonical names of the installed distributions that `names` require, `names` among them."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    closure: set[str] = set()
    waiting = [(canonicalize_name(name), "") for name in names]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # required on another platform only, or replaced by the system
            continue
        closure.add(name)
        for requirement in map(Requirement, lines):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            for needed in ((canonicalize_name(requirement.name), extra) for extra in ("", *requirement.extras)):
                if needed not in seen:
                    seen.add(needed)
                    waiting.append(needed)
    return closure


def names_outside(closure: set[str]) -> frozenset[str]:
    """Returns the top-level import names of all installed distributions that are not in `closure`."""
    from packaging.utils import canonicalize_name

    return frozenset(
        top_level
        for top_level, distributions in packages_distributions().items()
        if top_level != PACKAGE and not closure & {canonicalize_name(name) for name in distributions}
    )


def import_all(package_name: str) -> list[str]:
    """Imports a package and every module below it and returns their names."""

    def fail(name: str) -> None:
        raise  # walk_packages calls this while it handles the exception, and would swallow an ImportError

    package: Any = importlib.import_module(package_name)
    names = [package_name]
    for module in pkgutil.walk_packages(package.__path__, f"{package_name}.", onerror=fail):
        if module.name in FOR_PYTEST:
            continue
        importlib.import_module(module.name)
        names.append(module.name)
    return names


def main() -> None:
    CorePathFinder.hidden = names_outside(requirement_closure(CORE))
    sys.meta_path[sys.meta_path.index(PathFinder)] = CorePathFinder
    imported = import_all(PACKAGE)
    sys.stdout.write(json.dumps({"hidden": sorted(CorePathFinder.hidden), "imported": imported}) + "\n")


if __name__ == "__main__":
    main()

"""
Reads and writes folders of `torch.distributed.checkpoint` in one process, without running what a pickle says.

torch's own reader unpickles `.metadata`, and every entry that is no tensor, with whatever classes they name.
"""

import io
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    Metadata,
    StorageMeta,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

_KNOWN = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}
"""Classes of a `.metadata` file by module; the dtypes of torch come on top."""


def read_sharded(folder: Path) -> dict[str, Any]:
    """Returns the nested state dict that some processes have written together, with whole tensors on the CPU.

    Args:
        folder (`Path`): One with a `.metadata` file.

    Raises:
        ValueError: If the files hold other classes than tensors, containers, numbers and strings, or less than their
            `.metadata` says.
    """
    reader = _Reader(folder)
    metadata = reader.read_metadata()
    tensors = {
        name: entry for name, entry in metadata.state_dict_metadata.items() if isinstance(entry, TensorStorageMetadata)
    }
    announced = sum(entry.size.numel() * entry.properties.dtype.itemsize for entry in tensors.values())
    held = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    if announced > held:
        raise ValueError(f"{folder} announces {announced:,} bytes of tensors and holds {held:,}: it is not complete.")
    flat: dict[str, Any] = dict.fromkeys(metadata.state_dict_metadata)
    flat.update({name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in tensors.items()})
    planner = _Planner(flatten_state_dict=False, flatten_sharded_tensors=False)  # fills `flat` itself, no copy of it
    try:
        with _alone():
            load(flat, storage_reader=reader, planner=planner, no_dist=True)
    except CheckpointException as error:
        raise ValueError(f"{folder} cannot be read as a checkpoint of tensors and numbers: {error}") from error
    paths: dict[str, tuple[str | int, ...]] = metadata.planner_data or {name: (name,) for name in flat}
    state: dict[str, Any] = _nested({paths[name]: value for name, value in flat.items()})
    return state


def write_sharded(state: dict[str, Any], folder: Path) -> None:
    """Writes a state dict so that any number of processes can read their parts of it."""
    with _alone():
        save(state, storage_writer=FileSystemWriter(folder), no_dist=True)


@contextmanager
def _alone() -> Iterator[None]:
    """Without torch's remark that no other process takes part."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


class _Unpickler(pickle.Unpickler):
    """Builds what torch describes tensors by; any other class in the file is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """A class of `_KNOWN`, or a dtype."""
        if (module, name) == ("builtins", "getattr"):
            return _memory_format
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and name not in _KNOWN.get(module, ()):
            raise ValueError(f"a `.metadata` file describes tensors, this one names {module}.{name}. Do not use it.")
        return super().find_class(module, name)


def _memory_format(owner: object, name: object) -> _MEM_FORMAT_ENCODING:
    """What `getattr` does in the files of some Pythons, 3.11.2 for one, which name members of an enumeration by it."""
    if owner is not _MEM_FORMAT_ENCODING or name not in _MEM_FORMAT_ENCODING.__members__:
        raise ValueError(f"a `.metadata` file describes tensors, this one names {name!r} of {owner!r}. Do not use it.")
    return _MEM_FORMAT_ENCODING[str(name)]


class _Reader(FileSystemReader):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._file = folder / ".metadata"

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the processes have written, by name."""
        try:
            metadata: Metadata = _Unpickler(io.BytesIO(self._file.read_bytes())).load()
        except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, TypeError) as error:
            raise ValueError(f"{self._file} is not what torch.distributed.checkpoint writes: {error}") from error
        if not isinstance(metadata, Metadata):
            raise ValueError(f"{self._file} must describe tensors, got a {type(metadata).__name__}.")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Planner(DefaultLoadPlanner):
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """An entry that is no tensor."""
        self.state_dict[read_item.dest_index.fqn] = torch.load(value, weights_only=True)


def _nested(flat: dict[tuple[str | int, ...], Any]) -> Any:
    """`{("a", 0, "b"): 1}` to `{"a": [{"b": 1}]}`."""
    if () in flat:
        return flat[()]
    parts: dict[str | int, dict[tuple[str | int, ...], Any]] = {}
    for path, value in flat.items():
        parts.setdefault(path[0], {})[path[1:]] = value
    built: dict[Any, Any] = {name: _nested(part) for name, part in parts.items()}
    if built and all(isinstance(name, int) for name in built):
        return [built[place] for place in sorted(built)]
    return built

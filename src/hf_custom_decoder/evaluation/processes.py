"""Work that is shared out over the processes of `torchrun`, so that one ends where another fails."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_LONGEST_WAIT = timedelta(days=30)
"""Processes wait for the slowest one; one that has died is noticed at once, as its connection closes."""
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK")
_LOCAL_RANKS = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK")
"""Where `torchrun` and `accelerate launch` say it, and two kinds of `mpirun`."""


class Processes:
    """All processes of a launch, as one of them sees them.

    Args:
        group (`torch.distributed.ProcessGroup`, *optional*): Of all of them, on the CPU; None for one process alone.

    Attributes:
        num_processes (`int`): At least 1.
        process_idx (`int`): From 0, the first one, which reads data and writes files.
    """

    def __init__(self, group: Any = None) -> None:
        self._group = group
        self.num_processes = 1 if group is None else dist.get_world_size(group)
        self.process_idx = 0 if group is None else dist.get_rank(group)

    @property
    def is_first(self) -> bool:
        """`bool`: Whether this process reads data and writes files."""
        return self.process_idx == 0

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Runs a block in which no process waits for another; all leave it together.

        Raises:
            ValueError: If the block failed on another process. Where it failed, its own error is raised.
            OSError: If another process has ended.
        """
        try:
            yield
        except Exception as error:
            self._exchange(f"{type(error).__name__}: {error}")
            raise
        for idx, text in enumerate(self._exchange(None)):
            if text is not None:
                raise ValueError(
                    f"Process {idx} of {self.num_processes} (counted from 0) has failed, so that this one ends too: "
                    f"{text}"
                )

    def share_out(
        self, pieces: Iterable[Piece], work: Callable[[Iterable[Piece]], list[Result]]
    ) -> list[Result] | None:
        """Deals pieces to the processes in turn, works on them, and gathers the results.

        Args:
            pieces (`Iterable`): On the first process; what others give is not looked at. Those that take longest
                come first: the turns go up and down, so that all processes get about the same work.
            work (`Callable[[Iterable[Piece]], list[Result]]`): Makes a result of each of the pieces of this process,
                in order. Called on every process, also without pieces.

        Returns:
            `list`: The results in the order of the pieces on the first process, None on the others.

        Raises:
            ValueError: If `work` failed on another process.
            OSError: If another process has ended.
        """
        if self._group is None:
            return work(pieces)
        every = list(pieces) if self.is_first else []
        shares = deal(len(every), self.num_processes)
        own: list[Any] = [None]
        with _naming_the_dead():
            dist.scatter_object_list(
                own,
                [[every[number] for number in share] for share in shares] if self.is_first else None,
                src=0,
                group=self._group,
            )
        found: list[Result] = []
        with self.in_step():
            found = work(own[0])
        gathered: list[Any] | None = [None] * self.num_processes if self.is_first else None
        with _naming_the_dead():
            dist.gather_object(found, gathered, dst=0, group=self._group)
        if gathered is None:
            return None
        results = {
            number: result
            for share, part in zip(shares, gathered, strict=True)
            for number, result in zip(share, part, strict=True)
        }
        return [results[number] for number in range(len(every))]

    def _exchange(self, text: str | None) -> list[str | None]:
        if self._group is None:
            return [text]
        texts: list[str | None] = [None] * self.num_processes
        with _naming_the_dead():
            dist.all_gather_object(texts, text, group=self._group)
        return texts


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Joins the processes that `torchrun` or `accelerate launch` has started, for the length of the block.

    They talk to each other by gloo on the CPU, whatever device they work on. Processes that have joined before (an
    initialized `torch.distributed`) stay so.

    Raises:
        ValueError: If the launcher has not said which of the processes this one is, or where the first one is.
        OSError: If the first process cannot be reached.
    """
    num_processes = dist.get_world_size() if dist.is_initialized() else int(_said(_SIZES, "1"))
    if num_processes == 1:
        yield Processes()
        return
    joins = not dist.is_initialized()
    if joins:
        rank = _said(_RANKS, "")
        if not rank or not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
            raise ValueError(
                f"One of {num_processes} processes must be told its number (RANK) and where the first one is "
                f"(MASTER_ADDR, MASTER_PORT), got RANK={rank!r}, MASTER_ADDR={os.environ.get('MASTER_ADDR')!r} and "
                f"MASTER_PORT={os.environ.get('MASTER_PORT')!r}. Start them with `torchrun --nproc_per_node "
                f"{num_processes} -m hf_custom_decoder ...`."
            )
        with _naming_the_dead():
            dist.init_process_group("gloo", rank=int(rank), world_size=num_processes)
    with _naming_the_dead():
        group = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
    try:
        yield Processes(group)
    finally:
        dist.destroy_process_group(None if joins else group)


def refuse_several_processes(command: str) -> None:
    """Raises a `ValueError` if a command that does not share its work was started more than once."""
    num_processes = int(_said(_SIZES, "1"))
    if num_processes > 1:
        raise ValueError(
            f"`{command}` runs in one process, got {num_processes}: each would do all of the work. Start it without "
            "`torchrun` and `accelerate launch`, or cut its input into parts."
        )


def deal(num_pieces: int, num_processes: int) -> list[list[int]]:
    """Numbers of the pieces of every process, in turns that go up and down: 0 1 2 2 1 0 0 1 2 of three."""
    shares: list[list[int]] = [[] for _ in range(num_processes)]
    for number in range(num_pieces):
        turn, place = divmod(number, num_processes)
        shares[place if turn % 2 == 0 else num_processes - 1 - place].append(number)
    return shares


def own_device(device: str) -> str:
    """Returns the device of this process: each on a machine has a GPU, in turn where there are fewer of them."""
    local_rank = _said(_LOCAL_RANKS, "")
    if device != "cuda" or not local_rank or not torch.cuda.is_available():
        return device
    return f"cuda:{int(local_rank) % torch.cuda.device_count()}"


def _said(names: tuple[str, ...], default: str) -> str:
    return next((os.environ[name] for name in names if name in os.environ), default)


@contextmanager
def _naming_the_dead() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConnectionError(
            f"The other processes could not be reached, or one has ended before its work was done ({reason}). See "
            "what it said."
        ) from error

from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

class Parallel:
    def __init__(
        self,
        *,
        n_jobs: int,
        return_as: str,
        initializer: Callable[..., None],
        initargs: tuple[Any, ...],
    ) -> None: ...
    def __call__(self, calls: Iterable[Any]) -> Generator[Any]: ...

def delayed(function: Callable[..., T]) -> Callable[..., Any]: ...
def cpu_count() -> int: ...

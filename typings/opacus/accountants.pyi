from collections.abc import Sequence

class RDPAccountant:
    history: list[tuple[float, float, int]]
    def get_epsilon(self, delta: float, alphas: Sequence[float] | None = ...) -> float: ...

class PRVAccountant:
    history: list[tuple[float, float, int]]
    def get_epsilon(self, delta: float, *, eps_error: float = ...) -> float: ...

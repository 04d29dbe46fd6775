# The part of `sklearn.metrics` that LEFF uses.

from collections.abc import Sequence

import numpy as np

def f1_score(
    y_true: Sequence[float] | np.ndarray,
    y_pred: Sequence[float] | np.ndarray,
    *,
    average: str,
    zero_division: float = ...,
) -> float: ...
def matthews_corrcoef(
    y_true: Sequence[float] | np.ndarray, y_pred: Sequence[float] | np.ndarray
) -> float: ...

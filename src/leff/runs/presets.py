"""Sets of options, such as ``preset = "paper"``; options that a user sets win.

PRESETS["paper"]["context"]["name"]      # "distil"
PUBLISHED["training"]["calibrated"]      # False: other methods than LEFF are as their papers say
PRIVATE["method"]["weights"]             # "equal": what privacy needs, whatever the preset
SUMS_ALONE["privacy"]["clip"]            # 10.0: that, for secure sums without noise
"""

from typing import Any

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "default": {},
    "paper": {  # Sec. 3 to the letter, as far as it says anything
        "method": {
            "sampling": "importance",
            "scale": "literal",
            "temperature": 1.0,
            "source": "proxy",
            "exploration": 0.0,
            "stratified": False,
            "mixed": False,
            "relaxation": 0.0,
            "momentum": 0.0,
            "weights": "examples",
        },
        "context": {
            "name": "distil",
            "rate": 0.5,
            "bits": 32,
            "embedding_bits": 32,
            "whole": True,
            "steps": 4,  # after the start by least squares; see docs/LOG.md
            "batch_size": 4,
            "learning_rate": 1e-4,
        },
        "training": {
            "schedule": "constant",
            "calibrated": False,
            "calibrated_from": 0.0,
            "levelled": False,
            "proximal": 0.0,
        },
    },
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "method": {"mixed": False, "weights": "examples"},
    "training": {"calibrated": False, "calibrated_from": 0.0, "levelled": False},
}

PRIVATE: dict[str, dict[str, Any]] = {
    "method": {"together": True, "weights": "equal", "mixed": False},
    "training": {"levelled": False},
    "evaluation": {"gap_clients": 0},
}

SUMS_ALONE: dict[str, dict[str, Any]] = {"privacy": {"clip": 10.0}}

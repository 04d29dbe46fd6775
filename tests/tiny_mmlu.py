"""Two subjects of MMLU in files: five worked examples each, three and two questions."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SUBJECTS = ("abstract_algebra", "virology")


def columns(sizes: dict[str, int], word: str) -> dict[str, list[str]]:
    """Return questions of subjects; the answers of a subject run through A, B, C, D."""
    names = [(subject, i) for subject, size in sizes.items() for i in range(size)]
    return {
        "subject": [subject for subject, _ in names],
        "question": [f"{word} {i} of {len(subject)}?" for subject, i in names],
        **{a: [f"{a.lower()}{i}" for _, i in names] for a in "ABCD"},
        "answer": ["ABCD"[i % 4] for _, i in names],
    }


SPLITS = {
    "dev": columns(dict.fromkeys(SUBJECTS, 5), "Shot"),
    "val": columns(dict.fromkeys(SUBJECTS, 8), "Seen"),
    "test": columns(dict(zip(SUBJECTS, (3, 2), strict=True)), "Asked"),
}


def write_mmlu(folder: Path, leave_out: str = "") -> Path:
    """Write the compact layout, and return the root of all tasks."""
    (folder / "mmlu").mkdir(parents=True)
    for split, table in SPLITS.items():
        if split != leave_out:
            pq.write_table(pa.table(table), folder / "mmlu" / f"{split}.parquet")
    return folder

import pytest
from shown_runs import run_folder


@pytest.fixture
def folder(tmp_path):
    return run_folder(tmp_path / "runs" / "a")

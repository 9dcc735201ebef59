# SPDX-License-Identifier: Apache-2.0
"""Where the real log data lies: bytes from real logs, which nobody on this project wrote."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ct_corpus() -> Path:
    """Return the folder of real CT data that the environment variable CT_CORPUS names."""
    folder = os.environ.get("CT_CORPUS")
    if folder is None:
        reason = "CT_CORPUS does not name the folder of real CT data"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    path = Path(folder)
    if not (path / "README.md").is_file():
        pytest.fail(f"CT_CORPUS names {path}, where there is no such data")
    return path

# SPDX-License-Identifier: Apache-2.0
"""The tree in docs/architecture.md names every file of the packages, and no file that does not exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TREE = (ROOT / "docs" / "architecture.md").read_text().split("```")[3]
# What spool.py and jsonl.py share is described as a whole.
SUMMED_UP = {"document.py", "files.py", "lines.py", "record.py", "rotation.py"}


def test_the_tree_names_every_file_and_no_other() -> None:
    named = set(re.findall(r"\b\w+\.py\b", TREE))
    there = {
        path.name
        for package in ("responder", "reconciler")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert there - named - SUMMED_UP == set()
    assert named - there == set()

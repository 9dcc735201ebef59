# SPDX-License-Identifier: Apache-2.0
"""The measurements of signing ahead sign, store and revoke what they say, in tiny numbers. Nothing here is timed."""

from pathlib import Path

import pytest

from bench import presigning
from bench.cores import Cores
from responder.presign.conductor import PORTION


def test_signing_ahead_is_measured_beside_the_bare_loop(
    server_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = dict.fromkeys(presigning.KINDS, PORTION)
    monkeypatch.setattr(presigning, "_ANSWERS", few)
    monkeypatch.setattr(presigning, "_ROWS", few)
    figures = presigning.measure(server_dsn, tmp_path, cores=Cores.found(), repetitions=1)
    assert [figure.all_faults for figure in figures] == [()] * 6
    names = [figure.name for figure in figures]
    assert [figure.against for figure in figures] == [None, names[0], names[0], None, names[3], names[3]]
    assert all(figure.value > 0 for figure in figures)


def test_a_mass_revocation_leaves_nothing_but_revoked_answers(server_dsn: str, tmp_path: Path) -> None:
    figures = presigning.measure_mass(server_dsn, tmp_path, kind="p256", certificates=600)
    assert [figure.all_faults for figure in figures] == [()] * 6

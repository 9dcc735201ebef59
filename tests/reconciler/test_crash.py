# SPDX-License-Identifier: Apache-2.0
"""The real command, killed without warning again and again: what it leaves behind is exact."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from demo.ca import Authority
from demo.log import Log, serve
from responder.runtime.db import Database
from responder.runtime.settings import DSN_VARIABLE
from tests import served
from tests.conftest import as_role
from tests.reconciler.ct.followed import PROTOCOLS, Followed, Protocol, source


async def start(config: Path, dsn: str, *arguments: str) -> asyncio.subprocess.Process:
    program = [sys.executable, "-c", "from reconciler.cli import main; main()", "--config", str(config), *arguments]
    return await asyncio.create_subprocess_exec(
        *program,
        env={**os.environ, DSN_VARIABLE: dsn},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


def settings(folder: Path, log: Log, url: str, protocol: Protocol) -> Path:
    where = "monitoring_url" if protocol == "static" else "url"
    path = folder / "reconciler.toml"
    path.write_text(
        f'[ct]\npoll = "20ms"\n[[ct_log]]\nname = "{protocol}"\nkind = "{protocol}"\n{where} = "{url}"\n'
        f'key = "{log.key_b64}"\nstart = "beginning"\n'
    )
    return path


async def until_read(log: Log, number: int) -> None:
    """Wait until the log was asked for entries that often."""
    async with asyncio.timeout(20):
        while log.requests["entries"] < number:  # noqa: ASYNC110 - another process's work
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_reconciler_killed_midway_leaves_an_exact_result(
    protocol: Protocol, database: Database, dsn: str, tmp_path: Path
) -> None:
    ca = Authority.create("Issuing CA")
    await served.serve(database, "issuing", served.ca_certificate(ca))
    log = Log()
    log.auto_publish, log.max_batch = False, 50
    expected = set[int]()
    role = as_role(dsn, "ocsp_reconciler")
    async with serve(log) as url:
        config = settings(tmp_path, log, url, protocol)
        followed = Followed(database, source(log, url, protocol), log)
        for kill in range(3):
            for number in range(100):
                precert = ca.precertificate(f"{number}.example", key=ca.key)
                expected.add(precert.serial_number)
                log.add_precertificate(precert, ca.chain)
            log.publish()
            process = await start(config, role, "run")
            await until_read(log, log.requests["entries"] + 1)
            await asyncio.sleep(0.015 * kill)
            process.send_signal(signal.SIGKILL)
            assert await process.wait() == -signal.SIGKILL
            rows = await served.rows(
                database, "SELECT source_id FROM ocsp.source WHERE name = %(name)s", {"name": protocol}
            )
            followed.source_id = rows[0][0]
            await followed.check_invariants()
        process = await start(config, role, "once", "--strict")
        assert await process.wait() == 0
        await followed.check_invariants()
        # Told to stop politely, it stops.
        process = await start(config, role, "run")
        await until_head(log)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        process = await start(config, role, "status", "--json")
        told, _ = await process.communicate()
    (state,) = json.loads(told)["sources"]
    assert (state["state"], state["verified_size"], state["head_size"], state["quarantined"]) == ("fresh", 300, 300, 0)
    assert 0 <= state["lag_seconds"] < 60
    assert await followed.serials() == expected
    assert await served.rows(database, "SELECT count(*) FROM ocsp.sighting") == [(300,)]
    assert await served.rows(database, "SELECT count(*) FROM ocsp.status_change") == [(300,)]


async def until_head(log: Log) -> None:
    asked = log.requests["head"]
    async with asyncio.timeout(20):
        while log.requests["head"] < asked + 2:  # noqa: ASYNC110 - another process's work
            await asyncio.sleep(0.005)

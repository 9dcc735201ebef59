# SPDX-License-Identifier: Apache-2.0
"""docs/PERFORMANCE.md: the table, what it was measured on, how, and how to repeat it. Pure. Called by __main__.py."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from bench.aims import verdicts
from bench.figures import Figure, table

_HEAD: Final = """# Performance

Written by `make bench`; do not edit. Everything below comes from one run on one machine, so that the ratios can be
trusted where the absolute numbers cannot: **compare ratios, not numbers**, above all between machines. A load average
that is not near zero before the run means that others used the machine at the same time; then the spread is wide, and
the ratios are all that counts.
"""

_METHOD: Final = """## How it is measured

- One core serves and another one asks. Our responder (one gunicorn worker), nginx (one worker), cfssl, openssl and the
  reconciler are pinned to the first; wrk, ab, PostgreSQL and the CT log to the second. Where a row needs PostgreSQL, it
  therefore shares its core with the load. `busy` gives the shares of time that both cores worked, the server's first: a
  row whose second share is at 100 % is bound by what asks, not by what answers.
- {connections} connections, each waiting for its answer before it asks again: keep-alive, or one connection per request
  where the row says so. {warm_up} s of warm-up, then {seconds} s of measurement, {repetitions} times, the rows taking
  turns, so that noise hits all alike. Given are the median, the spread (most minus least, as a share of the median),
  and the medians of p50 and p99.
- `ratio` is the rate divided by that of nginx with a static file in the same repetition, with the same kind of
  connection; the median of these. nginx serves a file that holds an answer of ours, so the octets of the body are the
  same; no access log, the file kept open. The row asked by ab is divided by that of `openssl ocsp`, and the look-ups by
  that of the smallest table.
- *Cached*: the same question every time, answered from the worker's memory. *Uncached*: POSTs with distinct serials in
  no order, of {p256:,} rows (P-256) or {rsa2048:,} (RSA-2048), of which a worker keeps 50,000, so that no answer is met
  again in memory; each is looked up, signed and linted. PostgreSQL's own counters have to confirm the look-ups.
- *Uncached, one connection*: a database and a responder for each size of the table, and a worker that keeps nothing:
  one question at a time, so that p50 is how long one takes. The rows were put there without the table's triggers.
- *nginx in front of us*: [nginx.conf](nginx.conf) as it stands, one worker, its cache in a folder on disk.
- *cfssl ocspserve*: 1,001 answers of ours, signed before, in its memory; Debian's build, which refuses every GET.
- *openssl ocsp* signs each answer, for 10,000 lines of index.txt, and has no keep-alive. Connections that end without a
  request, as wrk's last ones do, have it spin for ever, so ab asks it for a fixed number of answers, and a new process
  each time; ours beside it is asked by ab as well, for the same number of seconds.
- *Memory of a worker*: from /proc/PID/smaps_rollup, before the first request and with its memory full of answers.
- A row counts only if wrk or ab saw no error, its answers had the octets of a right one, and an answer asked for after
  each repetition is `good`, for the right serial, with a signature that the cryptography library verifies. Else it is
  INVALID.
- *Reconciler*: `ocsp-reconciler once`, from the moment the issuers are loaded to the recorded end of the pass; the head
  verified, every certificate of ours proven by its signature and in its row, nothing quarantined. The log keeps its
  answers in memory, as a CDN in front of it would.
- *Publication to good*: the incident of `make demo`, published just after the reconciler has asked the log, which is
  the worst moment; asked with `openssl ocsp` until it says good.
- *Pre-signing*: answers assembled, signed and linted in portions, as a worker of `ocsp-responder presign` does, by
  processor time on one core; `ratio` to a loop of nothing but the library's sign(). *From queue to table*: the
  command itself with one worker, all that this worker does included, PostgreSQL's share not. Every RSA signature is
  verified, of ECDSA signatures one in 64.

## How to repeat it

    apt-get install nginx-light wrk apache2-utils golang-cfssl    # Debian; what is missing is named, and not measured
    make bench                                                    # ten minutes; ARGS="--help" for less of it

`FOUNDLING_TEST_SERVER` takes the DSN of a PostgreSQL to use instead of the embedded one; pinning it is then up to you.
"""


def document(
    figures: Sequence[Figure],
    *,
    missing: Sequence[str],
    machine: Mapping[str, str],
    load: tuple[str, str],
    when: datetime,
    method: Mapping[str, int],
) -> str:
    """Return the document. `load` are the machine's load averages before and after; `method` fills in the numbers."""
    width = max(len(name) for name in machine)
    facts = "\n".join(f"{name:<{width}}  {value}" for name, value in machine.items())
    absent = "".join(f"\nNot measured: {line}\n" for line in missing)
    return f"""{_HEAD}
Measured {when:%Y-%m-%d %H:%M} UTC. Load averages (1, 5, 15 minutes) before: {load[0]}; after: {load[1]}.
{absent}
```
{table(figures)}
```

## What was to be reached

```
{verdicts(figures)}
```

## On what

```
{facts}
```

{_METHOD.format(**method)}"""

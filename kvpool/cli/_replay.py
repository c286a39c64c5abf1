"""``kvpool replay``: a trace, served out of one pool with real bytes."""

from __future__ import annotations

import itertools
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kvpool.cli._interrupts import Interrupts
from kvpool.cli._replay_outcome import conclude, print_report
from kvpool.cli._replay_progress import ReplayProgress
from kvpool.cli._sizes import parse_size
from kvpool.layout import DTYPES, KVLayout, Packing
from kvpool.receipts import LedgerSink
from kvpool.replay import Replay, ReplayReport, TraceFormat, TraceReader

__all__ = ["replay"]


def replay(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="The file of the trace.")],
    backend: Annotated[
        str | None, typer.Option(help="Who holds the bytes; by default, `kvpool backends` tells.")
    ] = None,
    capacity: Annotated[
        int,
        typer.Option(parser=parse_size, metavar="SIZE", show_default="512MiB", help="Of the pool."),
    ] = 512 << 20,
    layers: Annotated[int, typer.Option(min=1, help="Layers that have a cache.")] = 2,
    kv_heads: Annotated[int, typer.Option(min=1, help="Key-value heads of a layer.")] = 2,
    head_dim: Annotated[int, typer.Option(min=1, help="Elements of a head.")] = 64,
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(DTYPES)}.")] = "float16",
    packing: Annotated[
        Packing,
        typer.Option(help="What lies together of each token: a head, a layer, or all."),
    ] = "head",
    policy: Annotated[
        str | None, typer.Option(help="Who goes first when bytes are needed; by default lru.")
    ] = None,
    ttl: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Of the trace's time, until an idle session goes."),
    ] = None,
    elastic: Annotated[
        bool | None,
        typer.Option(
            "--elastic/--no-elastic", help="Charge pages or whole blocks; by default as can be."
        ),
    ] = None,
    max_context: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="TOKENS", help="Reserve each entry for so many; by default as needed."
        ),
    ] = None,
    count_only: Annotated[
        bool,
        typer.Option("--count-only", help="Charge tokens, but write none: nothing is checked."),
    ] = False,
    max_requests: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many; by default at the end.")
    ] = None,
    trace_format: Annotated[
        TraceFormat | None, typer.Option("--format", help="By default, the file tells.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count broken lines instead of stopping.")
    ] = False,
    ledger: Annotated[
        Path | None, typer.Option(help="Keep a ledger of what leaves the pool in this file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Serve the requests of a trace, with each token written, read back and checked.

    Reads Azure's LLM inference traces (CSV) and Mooncake's (JSON lines).
    """
    layout = KVLayout(layers, kv_heads, head_dim, dtype, packing)
    with (
        TraceReader(trace, trace_format, skip_bad=skip_bad) as requests,
        # The replay closes it as well, unless there is none because an option is wrong.
        nullcontext(enter_result=True) if ledger is None else LedgerSink(ledger) as receipts,
        Replay(
            layout,
            capacity,
            backend,
            ttl=ttl,
            policy=policy,
            block_tokens=requests.trace_format.block_tokens,
            receipts=receipts,
            elastic=elastic,
            max_context_length=max_context,
            write=not count_only,
        ) as run,
    ):
        interrupted = _serve(run, requests, max_requests)
        report = run.report()
    if as_json:
        typer.echo(json.dumps(_document(report, requests), indent=2))
    else:
        console = Console(markup=False, highlight=False, emoji=False)
        title = f"{trace.name}, layout {report.layout}, policy {report.policy}"
        print_report(console, report, title, requests.skipped)
        if requests.first_skipped is not None:
            console.print(f"Skipped first: {requests.first_skipped}", soft_wrap=True)
    conclude(report, interrupted)


def _serve(run: Replay, requests: TraceReader, limit: int | None) -> bool:
    """Serve all requests; return whether Ctrl-C came before the last."""
    try:
        with Interrupts() as interrupts, ReplayProgress(requests) as progress:
            for request in itertools.islice(requests, limit):
                with interrupts.step():
                    run.serve(request)
                progress.advance(request.tokens)
            with interrupts.step():
                run.finish()
    except KeyboardInterrupt:
        return True
    return False


def _document(report: ReplayReport, requests: TraceReader) -> dict[str, object]:
    return {
        "trace": requests.path,
        "format": requests.trace_format.value,
        "skipped_lines": requests.skipped,
        **report.as_dict(),
    }

"""``kvpool replay``: serve the requests of a trace from one pool, with real bytes."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kvpool.cli._options import (
    LAYOUT,
    OUTPUT,
    POOL,
    RESERVED_TOKENS,
    BackendOption,
    CapacityOption,
    CsvOption,
    ElasticOption,
    HashBlockTokensOption,
    JsonOption,
    MaxRequestsOption,
    SkipBadOption,
    TraceArgument,
    TraceFormatOption,
    alternatives,
    policy_names,
    with_default,
)
from kvpool.cli._replay_blocks import replay_blocks
from kvpool.cli._replay_loop import serve_all
from kvpool.cli._replay_outcome import conclude, print_report
from kvpool.layout import DTYPES, KVLayout, Packing
from kvpool.ledger import LedgerSink
from kvpool.replay import BlockReplay, Replay, ReplayReport, TraceReader, to_csv

__all__ = ["replay"]


# Those that mean something in a replay by blocks; typer knows the others by their parameters.
_OF_BLOCKS = {
    "trace", "backend", "policy", "max_requests", "trace_format", "hash_block_tokens",
    "capacity_blocks", "tier", "tier_blocks", "skip_bad", "as_json", "as_csv",
}  # fmt: skip


def replay(
    context: typer.Context,
    trace: TraceArgument,
    backend: BackendOption = None,
    capacity: CapacityOption = 512 << 20,
    layers: Annotated[
        int, typer.Option(min=1, rich_help_panel=LAYOUT, help="Layers that cache keys and values.")
    ] = 2,
    kv_heads: Annotated[
        int, typer.Option(min=1, rich_help_panel=LAYOUT, help="Key-value heads per layer.")
    ] = 2,
    head_dim: Annotated[
        int, typer.Option(min=1, rich_help_panel=LAYOUT, help="Elements per head.")
    ] = 64,
    dtype: Annotated[
        str,
        typer.Option(
            rich_help_panel=LAYOUT, help=f"Data type of the cache: {alternatives(list(DTYPES))}."
        ),
    ] = "float16",
    packing: Annotated[
        Packing,
        typer.Option(
            rich_help_panel=LAYOUT,
            help="What is contiguous for one token: a head, a layer, or all layers.",
        ),
    ] = "head",
    policy: Annotated[
        str | None,
        typer.Option(
            autocompletion=policy_names,
            rich_help_panel=POOL,
            help=with_default("Eviction policy.", "lru; hit-density with --capacity-blocks"),
        ),
    ] = None,
    ttl: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            rich_help_panel=POOL,
            help=with_default("Evict sessions idle for this long, in the trace's time.", "never"),
        ),
    ] = None,
    elastic: ElasticOption = None,
    max_context: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="TOKENS",
            rich_help_panel=POOL,
            help=with_default(RESERVED_TOKENS, "the request's own length"),
        ),
    ] = None,
    count_only: Annotated[
        bool,
        typer.Option("--count-only", help="Allocate memory but write and check nothing."),
    ] = False,
    max_requests: MaxRequestsOption = None,
    trace_format: TraceFormatOption = None,
    hash_block_tokens: HashBlockTokensOption = None,
    capacity_blocks: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="BLOCKS",
            rich_help_panel=POOL,
            help=with_default(
                "Replay the ids of blocks alone, in a pool for this many blocks.", "all tokens"
            ),
        ),
    ] = None,
    tier: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            rich_help_panel=POOL,
            help="With --capacity-blocks: a tier to store blocks in and load them from, such as "
            "disk:/kv?capacity=1GiB. Several are asked in their order.",
        ),
    ] = None,
    tier_blocks: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="BLOCKS",
            rich_help_panel=POOL,
            help="With --capacity-blocks: a tier in memory for about this many blocks.",
        ),
    ] = None,
    skip_bad: SkipBadOption = False,
    ledger: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OUTPUT, help="Write receipts of all evictions to this ledger file."
        ),
    ] = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Serve the requests of a trace; write, read back and check each token.

    Reads Azure LLM inference traces (CSV) and Mooncake traces (JSON lines). With
    --capacity-blocks, prompts share the blocks that they begin with, and a few bytes stand for
    each block; --tier and --tier-blocks add tiers, and show the hits of each.
    """
    if as_json and as_csv:
        raise typer.BadParameter("give --json or --csv, not both")
    if capacity_blocks is not None:
        _refuse_others(context)
        with (
            TraceReader(
                trace, trace_format, skip_bad=skip_bad, hash_block_tokens=hash_block_tokens
            ) as requests,
            BlockReplay(capacity_blocks, policy, backend, tier or (), tier_blocks) as blocks,
        ):
            replay_blocks(blocks, requests, max_requests, as_json=as_json, as_csv=as_csv)
        return
    if tier or tier_blocks is not None:
        raise typer.BadParameter("--tier and --tier-blocks need --capacity-blocks")
    layout = KVLayout(layers, kv_heads, head_dim, dtype, packing)
    with (
        TraceReader(
            trace, trace_format, skip_bad=skip_bad, hash_block_tokens=hash_block_tokens
        ) as requests,
        # The replay closes the sink too; but if an option is wrong, the replay is never made.
        nullcontext(enter_result=True) if ledger is None else LedgerSink(ledger) as receipts,
        Replay(
            layout,
            capacity,
            backend,
            ttl=ttl,
            policy=policy,
            hash_block_tokens=requests.hash_block_tokens,
            receipts=receipts,
            elastic=elastic,
            max_context_length=max_context,
            write=not count_only,
        ) as run,
    ):
        interrupted = serve_all(run, requests, max_requests)
        report = run.report()
    if as_json:
        typer.echo(json.dumps(_document(report, requests), indent=2))
    elif as_csv:
        typer.echo(to_csv([report]), nl=False)
    else:
        console = Console(markup=False, highlight=False, emoji=False)
        title = f"{trace.name}, layout {report.layout}, policy {report.policy}"
        print_report(console, report, title, requests.skipped)
        if requests.first_skipped is not None:
            console.print(f"Skipped first: {requests.first_skipped}", soft_wrap=True)
    conclude(report, interrupted)


def _refuse_others(context: typer.Context) -> None:
    """Refuse options that a replay by blocks would not heed."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        is_given = source is not None and source.name == "COMMANDLINE"
        if is_given and parameter.name not in _OF_BLOCKS:
            raise typer.BadParameter(f"{parameter.opts[0]} cannot be used with --capacity-blocks")


def _document(report: ReplayReport, requests: TraceReader) -> dict[str, object]:
    return {
        "trace": requests.path,
        "format": requests.trace_format.value,
        "skipped_lines": requests.skipped,
        **report.as_dict(),
    }

"""``kvpool serve``: a local model behind OpenAI's API, over one bounded pool."""

from __future__ import annotations

import logging
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvpool.cli._interrupts import EXIT_CODE
from kvpool.cli._keys import VARIABLE, keys_of
from kvpool.cli._models import (
    DtypeOption,
    ModelArgument,
    TinyOption,
    check_directory,
    extra,
    load_model,
)
from kvpool.cli._options import (
    WEEK,
    BackendOption,
    CapacityOption,
    a_number,
    alternatives,
    with_default,
)
from kvpool.cli._serve.exposure import check_exposure, local_names
from kvpool.cli._sizes import counted, format_size, parse_size
from kvpool.cli._tier_store import TierOption, pool_over_tiers
from kvpool.errors import MissingExtraError
from kvpool.manager import KVCacheManager
from kvpool.tiers import TierStore

if TYPE_CHECKING:
    from kvpool.integrations.chat import ChatModel
    from kvpool.server import Server
    from kvpool.serving import Engine

__all__ = ["serve"]

_ACCESS, _LIMITS = "Access", "Limits"
_SALTS = ("key", "user", "none")
_TERMINATED = 128 + signal.SIGTERM
_LEAST_SECONDS = 5.0  # for the tiers, if answers took all of the time


def _salt(text: str) -> str:
    if text not in _SALTS:
        raise typer.BadParameter(f"invalid source {text!r}; use {alternatives(_SALTS)}")
    return text


def _access(metavar: str, text: str, **options: Any) -> Any:
    """Return an option of the group about who may use the server."""
    return typer.Option(rich_help_panel=_ACCESS, metavar=metavar, help=text, **options)


def _limit(metavar: str, text: str, **options: Any) -> Any:
    """Return an option of the group of limits."""
    return typer.Option(rich_help_panel=_LIMITS, metavar=metavar, help=text, **options)


def serve(
    model_dir: ModelArgument = None,
    tiny: TinyOption = False,
    host: Annotated[
        str, typer.Option(help="Name or address to listen on; 0.0.0.0 for all of IPv4.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")
    ] = 8000,
    capacity: CapacityOption = 512 << 20,
    backend: BackendOption = None,
    tier: TierOption = None,
    dtype: DtypeOption = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=with_default("Name under which clients ask for the model.", "that of MODEL_DIR"),
        ),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        _access(
            "KEY",
            "Key that clients must send; may be given several times. Other users of this "
            "machine can see it: prefer a file.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        _access("FILE", with_default("File with a key on each line.", f"${VARIABLE}")),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", rich_help_panel=_ACCESS, help="Serve other machines without a key."
        ),
    ] = False,
    salt_from: Annotated[
        str,
        _access(
            "SOURCE",
            "What tells tenants apart, who share no cached tokens: their key, the field user "
            "of their requests, or none.",
            parser=_salt,
        ),
    ] = "key",
    max_sessions: Annotated[int, _limit("N", "Requests that are answered at once.", min=1)] = 32,
    max_queue: Annotated[
        int, _limit("N", "Requests that may wait; more get status 429.", min=1)
    ] = 256,
    prefill_tokens: Annotated[
        int, _limit("TOKENS", "Tokens of prompts per step of the model.", min=1)
    ] = 256,
    max_tokens: Annotated[
        int, _limit("TOKENS", "Longest answer if a request says nothing.", min=1)
    ] = 256,
    deadline: Annotated[
        float | None,
        _limit(
            "SECONDS",
            with_default("Time after which an answer is cut off.", "there is no limit"),
            min=0.001,
            max=WEEK,
        ),
    ] = None,
    max_body: Annotated[
        int,
        _limit(
            "SIZE",
            with_default("Largest body of a request.", "8MiB"),
            parser=parse_size,
            show_default=False,
        ),
    ] = 8 << 20,
    origin: Annotated[
        list[str] | None,
        _access(
            "ORIGIN",
            "Web page that may call the server from a browser, such as "
            "http://localhost:3000; may be given several times.",
        ),
    ] = None,
    drain_seconds: Annotated[
        float,
        _limit(
            "SECONDS",
            "Time for the requests that are left when it is stopped, and then for what waits "
            "for the tiers, which has at least 5 seconds.",
            min=0,
            max=WEEK,
            callback=a_number,
        ),
    ] = 60.0,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Log each request on standard error.")
    ] = False,
) -> None:
    """Serve a local model by the API of OpenAI, from one bounded pool.

    Clients use the address that is printed, with /v1, as their base URL.
    What prompts have in common is computed once, and with --tier not again
    after a restart. /metrics is for Prometheus and `kvpool top`, /health
    for supervisors.

    Ctrl-C or SIGTERM lets it answer what it has accepted, store what waits
    for the tiers, and then end; a second one ends it at once.
    """
    given = keys_of(api_key or (), api_key_file)
    check_exposure(host, given, insecure)
    check_directory(model_dir, tiny)
    http = extra("kvpool.server", "serve")
    keys = http.Keys(given)
    serving = extra("kvpool.serving", "serve")
    otel = _opentelemetry()
    listener = http.bound_socket(host, port)
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn.access").setLevel(logging.INFO if access_log else logging.WARNING)
    end = _End(drain_seconds)
    with (
        listener,
        pool_over_tiers(TierStore, tier or (), capacity, backend, end.seconds_left) as (
            manager,
            store,
        ),
    ):
        model = load_model(model_dir, tiny, dtype, "serve", _say)
        engine: Engine = serving.Engine(
            model.model,
            model.tokenizer,
            manager,
            max_sessions=max_sessions,
            max_queue=max_queue,
            prefill_tokens=prefill_tokens,
            default_max_tokens=max_tokens,
            generation_config=model.settings,
            observer=None if otel is None else otel.TokenTimes(),
        )
        with engine:
            app = http.create_app(
                engine,
                name or model.name,
                keys=keys,
                salt_from=http.SaltFrom(salt_from),
                max_body=max_body,
                deadline=deadline,
                registry=_registry(manager, engine, store, otel),
                origins=origin or (),
                hosts=local_names(host),
            )
            server: Server = http.Server(
                app,
                engine,
                listener,
                drain_seconds=drain_seconds,
                access_log=access_log,
                on_start=lambda: _say(_greeting(model, manager, store, host, server.port)),
                on_drain=lambda: _say(_farewell(engine, end)),
            )
            server.run()
            end.is_hurried = server.was_hurried
    _exit(server)


class _End:
    """How long the end of a server may take, from the signal on.

    Parameters
    ----------
    seconds : float

    Attributes
    ----------
    is_hurried : bool
        Whether a second signal came, so that nothing is waited for.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun: float | None = None
        self.is_hurried = False

    def begin(self) -> None:
        """Note that the server was told to end."""
        self._begun = time.monotonic()

    def seconds_left(self) -> float:
        """Return the seconds that are left for the tiers."""
        if self.is_hurried:
            return 0.0
        gone = 0.0 if self._begun is None else time.monotonic() - self._begun
        return max(self._seconds - gone, _LEAST_SECONDS)


def _registry(manager: KVCacheManager, engine: Engine, store: TierStore | None, otel: Any) -> Any:
    """Return what /metrics shows; OpenTelemetry is told the same."""
    metrics = extra("kvpool.integrations.metrics", "serve")
    prometheus = extra("prometheus_client", "serve")
    registry = prometheus.CollectorRegistry()
    registry.register(metrics.PoolCollector(manager))
    registry.register(metrics.EngineCollector(engine))
    if store is not None:
        registry.register(metrics.TierCollector(store))
    prometheus.ProcessCollector(registry=registry)
    if otel is not None:
        otel.observe_pool(manager)
        otel.observe_engine(engine)
        if store is not None:
            otel.observe_tiers(store)
    return registry


def _opentelemetry() -> Any:
    """Return the module for OpenTelemetry; None if its API is not installed."""
    try:
        return import_module("kvpool.integrations.otel")
    except MissingExtraError:
        return None


def _greeting(
    model: ChatModel, manager: KVCacheManager, store: TierStore | None, host: str, port: int
) -> str:
    shown = f"[{host}]" if ":" in host else host
    capacity = manager.pool.capacity
    tokens = capacity // model.layout.bytes_per_token
    below = "" if store is None else f", over {', '.join(one.name for one in store.levels)}"
    return (
        f"serving {model.name} on http://{shown}:{port}/v1 from a pool of "
        f"{format_size(capacity)}, {tokens:,} tokens{below}"
    )


def _farewell(engine: Engine, end: _End) -> str:
    end.begin()
    stats = engine.stats()
    left = stats.running + stats.queued
    if not left:
        return "stopping"
    return f"stopping after {counted(left, 'request')}; again to stop at once"


def _say(text: str) -> None:
    typer.echo(f"kvpool: {text}", err=True)


def _exit(server: Server) -> None:
    if server.signal == signal.SIGINT:
        raise typer.Exit(EXIT_CODE)
    if server.was_hurried:
        raise typer.Exit(_TERMINATED)

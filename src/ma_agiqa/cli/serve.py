"""`ma-agiqa serve`: the scorer over HTTP."""

from __future__ import annotations

import ipaddress
import logging
import signal
import sys
from pathlib import Path
from socket import socket
from typing import Annotated

import typer

from ma_agiqa.cli import options
from ma_agiqa.errors import MissingExtraError, OutputError, UsageError


def serve(
    model: options.Model = "compact",
    revision: options.Revision = None,
    lmm: Annotated[
        str | None,
        typer.Option(
            "--lmm",
            help="LMM that computes semantic features, for a model that takes them: mplug-owl2, a "
            "checkpoint directory, a Hub id.",
        ),
    ] = None,
    dtype: options.Dtype = None,
    device: options.Device = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file", metavar="FILE", help="Requests must bring the key that stands there."
        ),
    ] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of one image.")] = 20 * 2**20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Of one image.")] = 50_000_000,
    queue: Annotated[
        int, typer.Option(min=1, help="Most images that wait; more are refused.")
    ] = 256,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds until a request is given up.")
    ] = 30.0,
    workers: options.Workers = None,
    batch_size: options.BatchSize = None,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Answer the pickled requests of flow_grpo and verl-omni too, read as plain data.",
        ),
    ] = False,
    isolate: Annotated[
        bool, typer.Option("--isolate/--no-isolate", help="Decode in child processes, with limits.")
    ] = True,
) -> None:
    """Serve scores over HTTP: a page at /, an API at /v1/score, rewards for trainers.

    One line of JSON on stderr for each request. SIGTERM and Ctrl-C let requests end first.
    """
    try:
        import uvicorn

        from ma_agiqa.serving.app import create_app
        from ma_agiqa.serving.service import Settings
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    from ma_agiqa.scorer import load

    key = _key(api_key_file)
    scorer = load(
        model,
        revision=revision,
        lmm=lmm,
        dtype=dtype,
        device=device,
        workers=workers,
        batch_size=batch_size,
    )
    settings = Settings(
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        queue=queue,
        batch=scorer.batch_size,
        timeout=timeout,
        api_key=key,
        allow_pickle=allow_pickle,
        isolate=isolate,
    )
    app = create_app(scorer, settings)

    class Server(uvicorn.Server):
        """Says where it listens, and refuses new work once it is told to end."""

        async def startup(self, sockets: list[socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                at = self.servers[0].sockets[0].getsockname()
                name = f"[{at[0]}]" if ":" in at[0] else at[0]
                typer.echo(f"{scorer.name} is served at http://{name}:{at[1]}", err=True)

        def handle_exit(self, sig: int, frame: object) -> None:
            app.state.service.draining = True
            super().handle_exit(sig, frame)  # type: ignore[arg-type]

    if key is None and not _is_loopback(host):
        typer.echo("warning: anybody who reaches this address may use it: --api-key-file", err=True)
    log = logging.getLogger("ma_agiqa.serving")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler(sys.stderr))
    server = Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            log_level="error",
            access_log=False,
            timeout_keep_alive=75,  # longer than proxies keep a connection that they may use again
            timeout_graceful_shutdown=int(timeout) + 5,
        )
    )
    # uvicorn would print the traceback of what is one line below.
    logging.getLogger("uvicorn.error").addFilter(lambda _: app.state.failure is None)
    # uvicorn raises the signal again once it has ended; by then all is done.
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, lambda number, frame: None)
    try:
        server.run()
    except (OSError, SystemExit) as error:
        if server.started:
            raise
        failure = app.state.failure
        if failure is not None:
            raise failure from failure.__cause__
        raise OutputError(
            "cannot listen there", path=f"{host}:{port}", remedy="choose another --host or --port"
        ) from error


def _key(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: the key cannot be read", remedy="a file with one line"
        ) from error
    if not key or len(key.splitlines()) != 1:
        raise UsageError(f"{path}: holds no key", remedy="a file with one line")
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

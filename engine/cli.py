"""The `tickline` command. Nothing heavy is imported before a command needs it: `--help` must be instant.

Exit codes: 0 done, 1 a run that is not proved, a strategy that stopped the line or a day that is not published, 2 bad usage, input or configuration,
3 a resource refused (disk, shared memory, network) or a process of the run that died or hung, 4 a fault of the engine stopped the line,
130 interrupted, 143 terminated. A live run (record, paper) is done, 0, when `--for` is over or the first SIGINT or SIGTERM has come,
after which it ends in order; a second one interrupts it, as does one that comes before the venue has described its instruments.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="An event-driven trading engine that can prove what it did.")
new_app = typer.Typer(no_args_is_help=True, help="Write the beginnings of something.")
app.add_typer(new_app, name="new")
fetch_app = typer.Typer(no_args_is_help=True, help="Download public market data.")
app.add_typer(fetch_app, name="fetch")

Feeds = Annotated[list[str], typer.Argument(help="capture or table, a folder of them, a.gz,b.gz, tape, run folder, or synthetic:ROWS[:SEED[:INSTRUMENTS]]")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable result on stdout")]
ENDED = {130: "interrupted", 143: "terminated"}  # by SIGINT, by SIGTERM
TABLES = "trades|quotes|tops|bars|features|indicators|event_features|factors|signals|orders|fills|positions|pnl"


def _speed(text: str) -> float:
    if text == "max":
        return 0.0
    try:
        value = float(text.removesuffix("x"))
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise typer.BadParameter(f"{text!r} is not max, 1x, 10x, …")
    return value


def _resolve(path: Path | None, flags: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    from engine.config import resolve

    return resolve(path, flags, os.environ)


@app.command()
def replay(
    feeds: Feeds,
    config: ConfigFile = None,
    speed: Annotated[str, typer.Option(help="max, or so many times the recorded speed: 1x, 10x")] = "max",
    placement: Annotated[str | None, typer.Option(help="fused, split or staged")] = None,
    out: Annotated[Path | None, typer.Option(help="run folder; runs/<number> when not given")] = None,
    embed: Annotated[bool | None, typer.Option("--embed", help="store a tape's records in the journal too")] = None,
    at_end: Annotated[str | None, typer.Option(help="mark or flatten open positions")] = None,
    as_json: Json = False,
) -> None:
    """Replay recorded feeds through the whole line and leave a run folder."""
    flags = {"runtime.placement": placement, "journal.embed": embed, "account.at_end": at_end}
    resolved, origins = _resolve(config, flags)
    base = config.resolve().parent if config else Path()
    _replay(feeds, resolved, origins, out, base, _speed(speed), as_json)


def _replay(
    feeds: list[str], config: Any, origins: dict[str, str], out: Path | None, base: Path, speed: float, as_json: bool
) -> None:
    from engine.observe.log import set_up_log
    from engine.observe.progress import ProgressBar
    from engine.replay import replay as run
    from engine.report import render_table

    set_up_log("warning")
    with ProgressBar(as_json) as progress:
        done = run(feeds, config, origins, out, base=base, speed=speed, progress=progress)
    if as_json:
        _print_json({"run": str(done.folder), **done.summary})
        return
    render_table(done.summary)
    typer.echo(f"\nrun folder {done.folder}   picture {done.folder / 'report.html'}   proof: tickline verify {done.folder}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="run folder, replaced if it is one")] = Path("runs/demo"),
    rows: Annotated[int, typer.Option(help="records to generate", min=1000)] = 2_000_000,
    seed: Annotated[int, typer.Option(help="of the generator")] = 7,
) -> None:
    """Generate synthetic order flow, replay it with two strategies, and leave a run folder with a picture."""
    import shutil

    from engine.feeds import open_feeds
    from engine.run_folder import facts_of

    feed = f"synthetic:{rows}:{seed}:3"
    open_feeds([feed], ())  # refused before anything is removed
    if (out / "run.json").is_file():
        facts_of(out)  # a run.json of somebody else's is no licence to remove what lies beside it
        shutil.rmtree(out)
    config = Path(__file__).with_name("demo.toml")
    resolved, origins = _resolve(config, {})
    _replay([feed], resolved, origins, out, Path(), 0.0, False)


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="run folder")],
    placement: Annotated[str, typer.Option(help="where decisions are made again: fused, split or staged")] = "fused",
    as_json: Json = False,
) -> None:
    """Prove a run: its evidence, its program, and every decision, re-executed."""
    from engine.observe.progress import ProgressBar
    from engine.verify import verify as check

    with ProgressBar(as_json) as progress:
        found = check(run, progress, placement)
    if as_json:
        _print_json(found.to_dict())
    else:
        for name, lines in (("evidence", found.evidence), ("program", found.program), ("decisions", found.decisions)):
            typer.echo(f"{name:<10} {'holds' if not lines else 'DOES NOT HOLD'}")
            for line in lines[:20]:
                typer.echo(f"    {line}")
            if len(lines) > 20:
                typer.echo(f"    and {len(lines) - 20} more")
        for note in found.notes:
            typer.echo(f"note       {note}")
        typer.echo(f"{'proved' if found.proved else 'NOT proved'}: {found.inputs:,} inputs re-executed")
    raise typer.Exit(0 if found.proved else 1)


@app.command()
def export(
    sources: Annotated[list[str], typer.Argument(help="a run folder, or feeds")],
    table: Annotated[str, typer.Option(help=TABLES)],
    form: Annotated[str, typer.Option("--format", help="csv or parquet")] = "csv",
    out: Annotated[Path | None, typer.Option(help="file; standard output when not given")] = None,
    config: ConfigFile = None,
) -> None:
    """Write a table with exact decimals and nanosecond timestamps."""
    from engine.tables_of_run import export as write

    resolved, _ = _resolve(config, {})
    rows = write(sources, table, resolved, out, form)
    typer.echo(f"{rows:,} rows of {table}" + (f" in {out}" if out else ""), err=True)


@app.command("import")
def import_(
    feeds: Feeds, out: Annotated[Path, typer.Option(help="tape to write")], config: ConfigFile = None, as_json: Json = False
) -> None:
    """Decode and merge feeds once, into a tape that later replays map into memory."""
    from engine.importing import import_feeds
    from engine.observe.progress import ProgressBar

    resolved, _ = _resolve(config, {})
    with ProgressBar(as_json) as progress:
        facts = import_feeds(feeds, resolved.instrument, out, progress, resolved.feeds.crossed_quotes)
    if as_json:
        _print_json(facts)
        return
    typer.echo(f"{facts['rows']:,} records of {', '.join(facts['instruments'])} in {out}")
    for reason, n in facts["refused"].items():
        typer.echo(f"    {reason}: {n:,}")


@fetch_app.command("binance")
def fetch_binance(
    symbol: Annotated[str, typer.Option(help="as the venue writes it: BTCUSDT, BTCUSD_PERP")],
    date: Annotated[str, typer.Option(help="day, UTC: 2024-08-08")],
    out: Annotated[Path, typer.Option(help="folder; the archive's own folders are made in it")],
    to: Annotated[str | None, typer.Option(help="last day, itself included")] = None,
    market: Annotated[str, typer.Option(help="spot, um (USD-M futures) or cm (COIN-M futures)")] = "spot",
    data: Annotated[str, typer.Option(help="trades, aggTrades, klines; of futures also bookTicker")] = "trades",
    interval: Annotated[str, typer.Option(help="of klines")] = "1m",
    base_url: Annotated[str | None, typer.Option("--base-url", help="of a mirror with the same layout")] = None,
    as_json: Json = False,
) -> None:
    """Download the daily files of Binance's public archive, checked by their SHA-256; what was cut is resumed."""
    from engine.fetch import BASE_URL, Wanted, day_of, fetch
    from engine.observe.progress import ProgressBar

    wanted = Wanted(market, data, symbol, day_of(date), day_of(to or date), interval)
    with ProgressBar(as_json, unit="bytes") as progress:
        facts = fetch(wanted, out, progress, base_url or BASE_URL)
    if as_json:
        _print_json(facts)
    else:
        typer.echo(f"{len(facts['fetched'])} fetched, {len(facts['there'])} there already; as a feed: {facts['folder']}")
    for name in facts["not_published"]:
        typer.echo(f"    {name}: the archive does not have it (a day's file is published on the day after)", err=True)
    raise typer.Exit(1 if facts["not_published"] else 0)


Venue = Annotated[str, typer.Option(help="binance, binance_usdm, binance_coinm, okx, kraken or coinbase")]
Seconds = Annotated[float, typer.Option("--for", help="seconds to follow; 0 is until interrupted", min=0.0)]
WsUrl = Annotated[str, typer.Option(help="websocket address instead of the venue's own")]
RestUrl = Annotated[str, typer.Option(help="REST address instead of the venue's own")]


@app.command()
def record(
    symbols: Annotated[str, typer.Option(help="as the venue writes them, joined by commas")],
    out: Annotated[Path, typer.Option(help="capture to write; gzip where it ends in .gz")],
    venue: Venue = "binance",
    run: Annotated[Path | None, typer.Option(help="run folder; runs/<number> when not given")] = None,
    seconds: Seconds = 0.0,
    config: ConfigFile = None,
    ws_url: WsUrl = "",
    rest_url: RestUrl = "",
    as_json: Json = False,
) -> None:
    """Write a venue's live messages down as they come, and journal what the line makes of them; no strategy runs."""
    import msgspec

    resolved, origins = _resolve(config, {})
    plain = msgspec.structs.replace(
        resolved, strategy=(), account=msgspec.structs.replace(resolved.account, positions=())
    )
    _follow({venue: _symbols(symbols)}, plain, origins, run, out, seconds, ws_url, rest_url, Path(), as_json)


@app.command()
def paper(
    feeds: Annotated[list[str], typer.Argument(help="VENUE:SYMBOL,SYMBOL of each venue to follow, as binance:BTCUSDT,ETHUSDT")],
    config: ConfigFile = None,
    out: Annotated[Path | None, typer.Option(help="run folder; runs/<number> when not given")] = None,
    capture: Annotated[Path | None, typer.Option(help="write the venue's messages there as well")] = None,
    seconds: Seconds = 0.0,
    ws_url: WsUrl = "",
    rest_url: RestUrl = "",
    as_json: Json = False,
) -> None:
    """Follow live feeds and trade on paper, until interrupted."""
    wanted: dict[str, list[str]] = {}
    for feed in feeds:
        venue, _, symbols = feed.partition(":")
        if venue in wanted or not _symbols(symbols):
            raise typer.BadParameter(f"{feed!r} is not VENUE:SYMBOL,SYMBOL, each venue once")
        wanted[venue] = _symbols(symbols)
    if len(wanted) > 1 and (ws_url or rest_url):
        raise typer.BadParameter("an address instead of the venue's own goes with one venue")
    resolved, origins = _resolve(config, {})
    base = config.resolve().parent if config else Path()
    _follow(wanted, resolved, origins, out, capture, seconds, ws_url, rest_url, base, as_json)


def _symbols(text: str) -> list[str]:
    return [s.strip() for s in text.split(",") if s.strip()]


def _follow(
    wanted: dict[str, list[str]], config: Any, origins: dict[str, str], out: Path | None, capture: Path | None, seconds: float,
    ws_url: str, rest_url: str, base: Path, as_json: bool,
) -> None:  # fmt: skip
    from engine.live import follow
    from engine.observe.log import set_up_log
    from engine.observe.progress import ProgressBar
    from engine.report import render_table

    set_up_log("warning")
    with ProgressBar(as_json) as progress:
        done = follow(
            wanted, config, origins, out, capture=capture, seconds=seconds, base=base, ws_url=ws_url, rest_url=rest_url, progress=progress
        )
    if as_json:
        _print_json({"run": str(done.folder), **done.summary})
        return
    render_table(done.summary)
    typer.echo(f"\nrun folder {done.folder}   picture {done.folder / 'report.html'}   proof: tickline verify {done.folder}")
    if capture is not None:
        typer.echo(f"capture {capture}   again: tickline replay {capture}")


@app.command()
def quality(
    feeds: Feeds,
    config: ConfigFile = None,
    min_score: Annotated[float, typer.Option(help="exit with 1 when a feed's score is below it", min=0, max=100)] = 0.0,
    as_json: Json = False,
) -> None:
    """Look through feeds and tell how good their data is: objections by check, the first of each, clock skew, a score."""
    from engine.observe.progress import ProgressBar
    from engine.quality import assess, render

    resolved, _ = _resolve(config, {})
    with ProgressBar(as_json) as progress:
        reports = assess(feeds, resolved, progress)
    if as_json:
        _print_json(reports)
    else:
        render(reports)
    raise typer.Exit(int(any(report["score"] < min_score for report in reports.values())))


@app.command()
def watch(as_json: Json = False) -> None:
    """Show what the runs on this machine are doing, until the last has ended; with --json once."""
    from engine.observe.counters import observed
    from engine.observe.watch import watch as show

    if as_json:
        _print_json(observed())
    elif not show():
        typer.echo("no run on this machine", err=True)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine offers, what is missing, and the fix."""
    from rich.console import Console

    from engine.doctor import inspect, is_fit, render, to_json

    findings = inspect()
    if as_json:
        typer.echo(to_json(findings))
    else:
        Console().print(render(findings))
    raise typer.Exit(0 if is_fit(findings) else 1)


@app.command()
def config(config: ConfigFile = None) -> None:
    """Show the configuration as resolved, each value with its origin."""
    from engine.dumped import dump

    resolved, origins = _resolve(config, {})
    typer.echo(dump(resolved, origins), nl=False)


@new_app.command("strategy")
def new_strategy(
    name: Annotated[str, typer.Argument(help="lower case, a Python name")],
    folder: Annotated[Path, typer.Option(help="where to write it")] = Path(),
) -> None:
    """Write a running example strategy with its test and a configuration."""
    from engine.scaffold import new_strategy as write

    for path in write(name, folder):
        typer.echo(f"wrote {path}")
    typer.echo(f"try it:   tickline replay synthetic:1_000_000 --config {folder / name}.toml")
    typer.echo(f"test it:  python -m pytest {folder / f'test_{name}.py'}")


def _print_json(value: Any) -> None:
    import msgspec

    typer.echo(msgspec.json.encode(value).decode())


def _known_error(error: Exception) -> int | None:
    """Exit code of an error that a user can act on; None for a bug, whose traceback is wanted."""
    from engine.errors import EngineError, FetchError, LineBroken, LineStopped, WorkerDied
    from handlers.ingest.errors import FeedError
    from transport.errors import SegmentError, StorageError, TransportError

    if isinstance(error, LineBroken):
        return 4
    if isinstance(error, LineStopped):
        return 1
    if isinstance(error, StorageError | SegmentError | WorkerDied | FetchError | OSError):  # what the system refused or ended, wherever it did
        return 3
    if isinstance(error, EngineError | FeedError | TransportError) or type(error).__module__ == "handlers.signals.errors":
        return 2
    return None


def _leave(code: int) -> NoReturn:
    """End the process; without waiting where a line's thread is in a step that does not return, and cannot be ended."""
    from engine.watchdog import left_behind

    if left_behind():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main() -> None:
    """Entry point: a known error is told in words, with its exit code; anything else is a bug and shows where."""
    try:
        app()
    except SystemExit as end:
        if end.code in ENDED:  # typer has taken the KeyboardInterrupt, and says nothing
            typer.echo(f"{ENDED[end.code]}; what was journaled until then stays readable", err=True)
            _leave(end.code)
        raise
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        code = _known_error(error)
        if code is None:
            raise
        typer.echo(f"tickline: {error}", err=True)
        _leave(code)


if __name__ == "__main__":
    main()

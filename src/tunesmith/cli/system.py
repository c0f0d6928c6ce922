"""`tunesmith system`: the machine, its disk and the server's settings."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tunesmith.cli.output import Output, say, show, size, table
from tunesmith.core.errors import InvalidInput
from tunesmith.core.words import plural
from tunesmith.sdk.client import Client

app = typer.Typer(no_args_is_help=True, help="The machine, its disk and the server's settings.")


@app.command()
def status() -> None:
    """How many, how busy, and what needs attention."""
    with Client() as client:
        seen = client.system.overview()
    use = seen.use
    rows = [
        ("datasets", _counted(seen.datasets)),
        ("jobs", _counted(seen.jobs)),
        ("models", _counted(seen.models)),
        ("CPU", f"{use.cpu_percent:.0f} %"),
        ("memory", f"{size(use.memory_used_bytes)} of {size(use.memory_total_bytes)}"),
        ("disk", f"{size(use.disk_free_bytes)} of {size(use.disk_total_bytes)} free"),
        *((f"GPU {gpu.index}", f"{gpu.name}, {gpu.utilization_percent or 0:.0f} %") for gpu in use.gpus),
        *((item.level, f"{item.title}: {item.message}") for item in seen.attention),
    ]
    show(seen, table(("what", "now"), rows))


@app.command()
def processes() -> None:
    """Tunesmith's processes, what each is for and what it uses."""
    with Client() as client:
        found = client.system.processes()
    rows = [(p.pid, p.kind, p.about, f"{p.cpu_percent:.0f} %", size(p.memory_bytes)) for p in found]
    show(found, table(("process", "kind", "what for", "CPU, of a core", "memory"), rows))


@app.command()
def storage() -> None:
    """What is on the disk, by kind, and which clean-ups there are."""
    with Client() as client:
        use = client.system.storage()
    frees = {cleanup.name: size(cleanup.frees_bytes) for cleanup in use.cleanups}
    rows = [
        (k.title, size(k.size_bytes), k.num_files, k.path, k.cleanup, frees.get(k.cleanup or "")) for k in use.kinds
    ]
    show(use, table(("kind", "size", "files", "folder", "clean-up", "would free"), rows))


@app.command()
def clean(
    name: Annotated[str, typer.Argument(help="checkpoints, caches, uploads, downloads or leftovers.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete what one clean-up names, and nothing that is in use. Says first what that is."""
    with Client() as client:
        found = client.system.cleanup(name)
        if not Output.as_json:
            say(f"{found.title}: {found.about}")
            for item in found.items:
                say(f"  {size(item.size_bytes):>10}  {item.what}")
        if found.num_items and not yes:
            if Output.as_json:
                raise InvalidInput("Say --yes to delete.", hint=f"{plural(found.num_items, 'item')} would be deleted.")
            typer.confirm(f"Delete {plural(found.num_items, 'item')} and free {size(found.frees_bytes)}?", abort=True)
        done = client.system.clean_up(name)
    show(done, f"{size(done.freed_bytes)} freed.")


@app.command()
def settings() -> None:
    """Every setting, its value, and where that comes from."""
    with Client() as client:
        found = client.system.settings()
    rows = [(s.name, s.value, s.source, "yes" if s.changeable else "", s.meaning) for s in found]
    show(found, table(("setting", "value", "from", "can be set", "meaning"), rows))


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="A setting, such as cpu_slots.")],
    value: Annotated[str | None, typer.Argument(help="Its new value; left out: back to the default.")] = None,
) -> None:
    """Change a setting of the running server; it is kept."""
    with Client() as client:
        found = client.system.change_settings(**{name: value})
    shown = next(setting for setting in found if setting.name == name)
    show(shown, f"{name} is {shown.value}.")


def _counted(counts: dict[str, Any]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"

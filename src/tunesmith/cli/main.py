"""The list of commands; errors become one line, a hint and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from pydantic import ValidationError
from typer.exceptions import TyperException

from tunesmith.cli import accounts, audit, datasets, deployments, evaluations, jobs, models, registry, system, talk
from tunesmith.cli.compress import compress
from tunesmith.cli.demo import demo
from tunesmith.cli.doctor import doctor
from tunesmith.cli.output import Output, complain
from tunesmith.cli.predict import predict
from tunesmith.cli.serve import up
from tunesmith.cli.train import train
from tunesmith.core.errors import InvalidInput, TunesmithError
from tunesmith.core.validation import message_of
from tunesmith.core.version import VERSION

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)
app.command()(up)
app.command()(demo)
app.command()(doctor)
app.command()(accounts.login)
app.command()(accounts.logout)
app.command()(accounts.whoami)
app.add_typer(datasets.app, name="datasets")
app.add_typer(jobs.app, name="jobs")
models.models.command("verify")(registry.verify)
app.add_typer(models.models, name="models")
app.add_typer(registry.app, name="registry")
app.add_typer(evaluations.app, name="evaluations")
app.add_typer(deployments.app, name="deployments")
app.command()(deployments.deploy)
app.add_typer(system.app, name="system")
app.add_typer(accounts.keys, name="keys")
app.add_typer(accounts.users, name="users")
app.add_typer(audit.app, name="audit")
app.command()(talk.chat)
app.command()(predict)
app.command()(train)
app.command()(compress)
app.command()(evaluations.evaluate)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def root(
    as_json: Annotated[
        bool, typer.Option("--json", help="Answer with JSON on standard output, errors as JSON on standard error.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None:
    """From a file of examples to a tuned model in use."""
    Output.as_json = as_json


def _bad_settings(error: ValidationError) -> InvalidInput:
    """Environment variables that cannot be used, by their names."""
    details = [
        {"loc": "TUNESMITH_" + "_".join(map(str, p["loc"])).upper(), "message": message_of(p)} for p in error.errors()
    ]
    return InvalidInput("Settings in the environment cannot be used.", hint="See docs/settings.md.", details=details)


def _file_trouble(error: OSError) -> TunesmithError:
    """A path that cannot be used is bad input; a full disk and the like are not."""
    about_path = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
    text = f"{error.filename}: {error.strerror}." if error.filename else str(error)
    return InvalidInput(text, hint="Check the path.") if isinstance(error, about_path) else TunesmithError(text)


def _usage(error: TyperException) -> InvalidInput:
    """What typer says of words that it cannot use."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "tunesmith"
    return InvalidInput(error.format_message(), hint=f"See: {command} --help")


def _run(arguments: list[str]) -> int:
    """Run one command; returns its exit code. Usage errors are typer's to show, except with `--json`."""
    root = typer.main.get_group(app)
    if Output.as_json:
        for group in (root, *root.commands.values()):
            group.no_args_is_help = False  # help would go to standard output, where programs read data
    try:
        code = root(arguments, standalone_mode=not Output.as_json)
    except TyperException as error:
        raise _usage(error) from None
    return code if isinstance(code, int) else 0


def main() -> None:
    """The `tunesmith` command. `--json` may stand anywhere."""
    arguments = sys.argv[1:]
    Output.as_json = "--json" in arguments
    if Output.as_json:
        arguments = ["--json", *(a for a in arguments if a != "--json")]
    try:
        raise SystemExit(_run(arguments))
    except TunesmithError as error:
        raise SystemExit(complain(error)) from None
    except ValidationError as error:
        if error.title != "Settings":  # a mistake of ours, not of the user
            raise
        raise SystemExit(complain(_bad_settings(error))) from None
    except UnicodeError as error:
        text = InvalidInput(f"Some text is not in the encoding that is used here: {error}.", hint="Use UTF-8.")
        raise SystemExit(complain(text)) from None
    except OSError as error:
        raise SystemExit(complain(_file_trouble(error))) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()

"""The `tunesmith` command, also as `python -m tunesmith`."""

import gc


def main() -> None:
    """Import with the garbage collector at rest: what is made while importing stays, and looking through it takes a while."""
    gc.disable()
    from tunesmith.cli.main import main as run

    gc.enable()
    run()


if __name__ == "__main__":
    main()

"""`python -m tunesmith.dataprep REQUEST.json`: one request in a process of its own, so that no file can harm the server.

Progress goes to standard output as JSON lines; bad input ends it with code 2 and a last line `{"error": {…}}`.
"""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

from tunesmith.core.errors import BadData, DiskFull, TooLarge, TunesmithError


def say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def carry_out(request_path: Path) -> None:
    """Run the request; libraries' own errors become ours."""
    import polars as pl
    import pyarrow as pa

    from tunesmith.dataprep.ingest import Request, run

    request = Request.model_validate_json(request_path.read_bytes())
    try:
        run(request, lambda share, phase: say({"progress": round(share, 3), "phase": phase}))
    except (pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        if isinstance(error, pa.ArrowMemoryError):
            raise MemoryError from error
        said = (str(error).splitlines() or ["unknown"])[0][:300]
        raise BadData(
            f"The data cannot be read: {said}", hint="Save the file again, as CSV, JSON Lines or Parquet."
        ) from error


def main(request_path: Path) -> int:
    """The exit code: 0, or 2 when the last line is an error."""
    try:
        carry_out(request_path)
    except TunesmithError as error:
        failed: TunesmithError = error
    except RecursionError:
        failed = BadData("The data is nested too deeply.", hint="Put flat values, or short lists, in each row.")
    except MemoryError:
        failed = TooLarge(
            "The file needs more memory to read than is allowed.",
            hint="Split it, or raise TUNESMITH_DATASET_MEMORY_BYTES.",
        )
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        failed = DiskFull(hint="Delete old datasets or jobs, or move TUNESMITH_HOME to a larger disk.")
    else:
        return 0
    say({"error": failed.body()})
    return 2


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

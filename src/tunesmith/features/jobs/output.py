"""Where a job's folder is: in the home folder, or linked from there into the output folder that somebody has chosen."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

from tunesmith.core.errors import Unavailable
from tunesmith.core.job_dir import JobDir, durable_folder, fsync_dir
from tunesmith.settings import Settings


def make_folder(settings: Settings, job_id: int, name: str) -> JobDir:
    """The job's folder, made if need be. Where an output folder is set, a new job's is made there under `name`, and linked to.

    Raises `Unavailable` when the output folder cannot be written, or is gone.
    """
    place = settings.jobs_dir / str(job_id)
    if not place.is_symlink() and (settings.output_dir is None or place.exists()):
        durable_folder(place, mode=0o700)
        return JobDir(place)
    try:
        if settings.output_dir and not place.is_symlink():
            place.symlink_to(_new_folder(settings.output_dir, name))
            fsync_dir(place.parent)
        os.scandir(place).close()
    except OSError as error:
        raise Unavailable(
            f"The job's output folder cannot be used: {error.filename}: {error.strerror}.",
            hint="Make the folder available again, or choose another in the settings; then resume the job.",
        ) from None
    return JobDir(place)


def _new_folder(folder: Path, name: str) -> Path:
    """A new folder called `name`, or `name-2` and so on where another installation has that."""
    for number in itertools.count(1):
        path = folder / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            fsync_dir(folder)
            return path
    raise AssertionError("there is no last number")

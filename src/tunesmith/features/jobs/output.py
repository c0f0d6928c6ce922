"""Where a job's folder is: in the home folder, or linked from there into the output folder that somebody has chosen."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from pathlib import Path

from tunesmith.core.errors import Unavailable
from tunesmith.core.job_dir import JobDir, durable_folder, fsync_dir, read_model
from tunesmith.core.job_spec import JobSpec
from tunesmith.settings import Settings


def make_folder(settings: Settings, job_id: int, name: str) -> JobDir:
    """The job's folder, made if need be. Where an output folder is set, a new job's is made there under `name`, and linked to.

    Raises `Unavailable` when the output folder cannot be written, or is gone.
    """
    place = settings.jobs_dir / str(job_id)
    if place.is_symlink():
        _check_own(place, job_id)
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


def real_place(place: Path) -> Path:
    """Where a job's folder is: `place`, or where the server's own link leads, one step and no more. Links that others have put
    there are for the caller to refuse."""
    return place.readlink() if place.is_symlink() else place


def _check_own(place: Path, job_id: int) -> None:
    """Refuse what somebody has put in the place of a job's folder: a link, another job's folder, somebody else's.

    Raises `Unavailable`. Who may rename in the output folder might still do so later; `_new_folder` sees to it that few may.
    """
    target = real_place(place)
    with contextlib.suppress(FileNotFoundError):
        about = target.lstat()
        spec = read_model(target / "spec.json", JobSpec)
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or (spec and spec.job_id != job_id):
            raise Unavailable(
                f"The job's output folder {target} is not the one that was made for it: something else is in its place.",
                hint="Put the folder back, or submit the job anew.",
            )


def why_not_safe(folder: Path) -> str:
    """Why jobs should not keep their folders there; empty when nothing stands against it."""
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return f"{folder} can be written by everybody on this machine, who could put anything in the place of what a job keeps."
    return ""


def _new_folder(folder: Path, name: str) -> Path:
    """A new folder called `name`, or `name-2` and so on where another installation has that. Links on the way there are
    followed now and never again."""
    folder = folder.resolve(strict=True)
    if why := why_not_safe(folder):
        raise Unavailable(why, hint=f"Run: chmod o-w {folder}")
    for number in itertools.count(1):
        path = folder / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            fsync_dir(folder)
            return path
    raise AssertionError("there is no last number")

"""Where jobs keep their folders: nothing that somebody else puts in their place is followed, written to or deleted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunesmith.core.errors import NotFound, Unavailable
from tunesmith.core.job_dir import JobDir, open_plain, read_model, read_new_events, write_atomic
from tunesmith.core.job_spec import JobSpec
from tunesmith.features.jobs import files
from tunesmith.features.jobs.logs import read_before, read_log, search
from tunesmith.features.jobs.output import make_folder
from tunesmith.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "out").mkdir()
    made = Settings(home=tmp_path / "home", output_dir=tmp_path / "out")
    made.make_dirs()
    return made


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    (folder / "artifacts" / "report").mkdir(parents=True)
    (folder / "artifacts" / "report" / "report.html").write_text("secret")
    (folder / ".hidden").write_text("mine")
    (folder / "output.log").write_text("secret")
    return folder


def unharmed(outside: Path) -> bool:
    return sorted(path.name for path in outside.rglob("*")) == [
        ".hidden",
        "artifacts",
        "output.log",
        "report",
        "report.html",
    ]


def job(settings: Settings, job_id: int, name: str) -> JobDir:
    folder = make_folder(settings, job_id, name)
    spec = JobSpec(job_id=job_id, name=name, recipe="lora", params={}, cache_dir="/tmp")
    write_atomic(folder.spec, spec)
    return folder


def test_a_link_in_the_place_of_a_jobs_folder_is_refused_and_left_alone(settings: Settings, outside: Path) -> None:
    job(settings, 1, "bot")
    assert settings.output_dir
    place = settings.output_dir / "bot"
    place.rename(settings.output_dir / "aside")
    place.symlink_to(outside)
    with pytest.raises(Unavailable, match="something else is in its place") as told:
        make_folder(settings, 1, "bot")
    assert told.value.hint
    with pytest.raises(NotFound):
        files.artifact(files.job_dir(settings, 1), "report/report.html")
    files.discard(settings, 1)
    assert unharmed(outside) and not list(settings.jobs_dir.iterdir())


def test_another_jobs_folder_or_somebody_elses_in_its_place_is_refused(settings: Settings) -> None:
    one, two = job(settings, 1, "one").path.readlink(), job(settings, 2, "two").path.readlink()
    one.rename(one.with_name("aside"))
    two.rename(one)
    with pytest.raises(Unavailable, match="something else is in its place"):
        make_folder(settings, 1, "one")
    if os.geteuid() == 0:
        os.chown(one, 12345, 12345)
        (one / "spec.json").unlink()
        with pytest.raises(Unavailable, match="something else is in its place"):
            make_folder(settings, 1, "one")


def test_names_that_are_links_already_are_passed_over(settings: Settings, outside: Path) -> None:
    assert settings.output_dir
    (settings.output_dir / "bot").symlink_to(outside)
    assert job(settings, 1, "bot").path.readlink() == settings.output_dir / "bot-2"
    assert unharmed(outside)


def test_the_way_to_the_output_folder_is_fixed_when_the_job_begins(settings: Settings, outside: Path) -> None:
    """A link on the way there may lead elsewhere later; the job's folder stays where it is."""
    assert settings.output_dir
    way = settings.output_dir.with_name("way")
    way.symlink_to(settings.output_dir)
    changed = settings.model_copy(update={"output_dir": way})
    folder = job(changed, 1, "bot")
    way.unlink()
    way.symlink_to(outside)
    assert make_folder(changed, 1, "bot").read_spec().job_id == 1
    assert folder.path.readlink() == settings.output_dir / "bot"


def test_a_folder_that_everybody_may_write_to_is_refused_unless_names_stay_with_their_owners(
    settings: Settings,
) -> None:
    assert settings.output_dir
    settings.output_dir.chmod(0o777)
    with pytest.raises(Unavailable, match="written by everybody"):
        make_folder(settings, 1, "bot")
    settings.output_dir.chmod(0o1777)
    make_folder(settings, 1, "bot")


def test_folders_in_the_job_that_are_links_are_not_followed(settings: Settings, outside: Path) -> None:
    folder = job(settings, 1, "bot")
    folder.artifacts.symlink_to(outside / "artifacts")
    folder.checkpoints.symlink_to(outside)
    assert files.artifacts(folder) == []
    with pytest.raises(NotFound):
        files.artifact(folder, "report/report.html")
    with pytest.raises(NotFound):
        files.report(folder)
    files.sweep_job(folder)
    assert unharmed(outside)


def test_a_log_events_or_records_that_are_links_or_pipes_are_not_read(settings: Settings, outside: Path) -> None:
    folder = job(settings, 1, "bot")
    for path in (folder.log, folder.events, folder.exit):
        path.symlink_to(outside / "output.log")
    os.mkfifo(folder.path / "pipe")
    assert read_log(folder.log, 0, 100).text == read_before(folder.log, 100, 100).text == ""
    assert search(folder.log, "secret", 0, 5).matches == []
    assert read_new_events(folder.events, 0).next_offset == 0 and read_model(folder.exit, JobSpec) is None
    with pytest.raises(FileNotFoundError):
        open_plain(folder.path / "pipe")

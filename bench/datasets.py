"""Tunesmith's reading of a large CSV beside `datasets.load_dataset("csv")` with the same statistics in pandas.

    python bench/datasets.py [--rows 1000000] [--rounds 3]

Makes a CSV of about 300 bytes a row, then runs both, each in a process of its own, by turns in the same run, and prints
the median wall time, processor time (which other programs disturb less) and peak memory (RSS) of each and their ratios. Tunesmith's part is its real child process: encoding
and delimiter found, rows stored as Parquet, every check of the validation report, statistics, near duplicates, digest.
The other part reads the CSV into its Arrow cache, and computes rows, types, nulls, unique values, examples, duplicates,
empty rows and length percentiles in pandas.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS_TEXT = (
    "the a of to and in is for on with as by at from that this order card payment account transfer limit fee customer "
    "delivery address change cancel refund number date today tomorrow please could would how what when where why which "
    'help need want know open close lost found late early money bank phone mail answer question line, "quoted" '
)
WORDS = WORDS_TEXT.split()

LOADER = """
import sys
from datasets import load_dataset
frame = load_dataset("csv", data_files=sys.argv[1], cache_dir=sys.argv[2], split="train").to_pandas()
told = {}
for name in frame:
    column = frame[name]
    told[name] = (str(column.dtype), int(column.isna().sum()), int(column.nunique()), column.dropna().unique()[:5].tolist())
lengths = {n: frame[n].str.len().quantile([0.5, 0.9, 0.95, 0.99]).tolist() for n in ("input", "output")}
print(len(frame), int(frame.duplicated().sum()), int(frame[["input", "output"]].isna().any(axis=1).sum()), told, lengths)
"""


def make_csv(path: Path, num_rows: int) -> None:
    """Rows `id,input,output`; one in a thousand repeats another, one in a thousand lacks its output."""
    rng = random.Random(7)
    pool = [" ".join(rng.choices(WORDS, k=8)) for _ in range(20_000)]
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("id,input,output\n")
        row = ""
        for number in range(num_rows):
            if not row or number % 1000:
                asked, answered = " ".join(rng.choices(pool, k=3)), " ".join(rng.choices(pool, k=3))
                cells = [asked, "" if number % 1000 == 500 else answered]
                row = f"{number}," + ",".join('"' + cell.replace('"', '""') + '"' for cell in cells) + "\n"
            file.write(row)


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak RSS in MB of a process. Raises when it fails."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - started
        if process.returncode:
            log.seek(0)
            sys.exit(f"{command[:3]} failed:\n{log.read().decode(errors='replace')[-3000:]}")
    per_mb = 1024 * 1024 if sys.platform == "darwin" else 1024
    return wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / per_mb


def ours(path: Path, work: Path, number: int) -> list[str]:
    request = {"action": "ingest", "source": str(path), "file_name": path.name, "out_dir": str(work / f"out{number}")}
    request_path = work / f"request{number}.json"
    request_path.write_text(json.dumps(request))
    return [sys.executable, "-m", "tunesmith.dataprep", str(request_path)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only-ours", action="store_true", help="skip the comparison")
    options = parser.parse_args()
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        path = work / "rows.csv"
        make_csv(path, options.rows)
        print(f"{options.rows} rows, {path.stat().st_size / 1e6:.0f} MB, {os.cpu_count()} cores")
        found: dict[str, list[tuple[float, float, float]]] = {"tunesmith": [], "datasets + pandas": []}
        for number in range(options.rounds):
            found["tunesmith"].append(measure(ours(path, work, number), environment))
            if not options.only_ours:
                cache = work / f"cache{number}"  # a fresh cache each time, or the second reading would be none
                command = [sys.executable, "-c", LOADER, str(path), str(cache)]
                found["datasets + pandas"].append(measure(command, environment))
        medians = {}
        for name, runs in found.items():
            if runs:
                medians[name] = [statistics.median(values) for values in zip(*runs, strict=True)]
                print(
                    f"{name:18} {medians[name][0]:7.1f} s  {medians[name][2]:7.0f} MB  {medians[name][1]:7.1f} s of processors   runs: "
                    + ", ".join(f"{run[0]:.1f} s" for run in runs)
                )
        if len(medians) == 2:
            (our_s, our_cpu_s, our_mb), (their_s, their_cpu_s, their_mb) = medians.values()
            print(
                f"datasets + pandas takes {their_s / our_s:.2f} times the time, {their_cpu_s / our_cpu_s:.2f} times the processor "
                f"time and {their_mb / our_mb:.2f} times the memory"
            )


if __name__ == "__main__":
    main()

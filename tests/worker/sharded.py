"""One rank that works through several attempts in turn, in one process group: `python -m tests.worker.sharded JOB_DIR…`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.recipes.ground import train
from tunesmith.core.job_dir import JobDir
from tunesmith.engine.ranks import Ranks
from tunesmith.worker.ranks import die_with_parent
from tunesmith.worker.run import Run
from tunesmith.worker.stopping import StopSignals


def main() -> None:
    die_with_parent()
    ranks = Ranks()
    for path in sys.argv[1:]:
        job_dir = JobDir(Path(path))
        launch = job_dir.read_launch()
        assert launch
        run = Run(job_dir, job_dir.read_spec(), launch.attempt, StopSignals(), ranks.rank)
        run.start()
        outcome = train(run)
        run.finish()
        if ranks.rank == 0:
            (job_dir.path / "outcome").write_text(outcome)
        ranks.sum(0.0)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

"""AutoGluon on one table, in an environment of its own: `autogluon_tabular.py REQUEST.json`.

The request: `train`, `test` (CSV), `target`, `metric`, `problem`, `time_limit_s`, `preset`, `threads`, `out` (a folder). Writes `out/predictions.csv` (a
probability for each class, or `value`) and `out/told.json` (seconds, versions).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pandas as pd
from autogluon.tabular import TabularPredictor
from autogluon.tabular import __version__ as version


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    out = Path(request["out"])
    train, test = pd.read_csv(request["train"]), pd.read_csv(request["test"])
    began = time.perf_counter()
    predictor = TabularPredictor(
        request["target"],
        eval_metric=request["metric"],
        path=str(out / "model"),
        problem_type=request["problem"],
        verbosity=1,
    )
    predictor.fit(train, presets=request["preset"], time_limit=request["time_limit_s"], num_cpus=request["threads"])
    seconds = time.perf_counter() - began
    if predictor.problem_type == "regression":
        found = pd.DataFrame({"value": predictor.predict(test)})
    else:
        found = predictor.predict_proba(test)
    found.to_csv(out / "predictions.csv", index=False)
    models = predictor.leaderboard()[["model", "score_val"]].to_dict("records")
    (out / "told.json").write_text(json.dumps({"seconds": seconds, "version": version, "models": models}, default=str))


if __name__ == "__main__":
    main()

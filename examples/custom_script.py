"""A script for the method `custom`: fits a straight line, reports as it goes, and goes on where it was after a pause.

On a server that allows scripts (TUNESMITH_CUSTOM_SCRIPTS=1):
tunesmith jobs create --method custom --set script=@examples/custom_script.py --set 'config={"steps": 50}' --watch
"""

import json
import random
import sys
from pathlib import Path

told = json.loads(Path(sys.argv[1]).read_text())
steps = told["config"].get("steps", 50)
learning_rate = told["config"].get("learning_rate", 0.1)
state = Path(told["state_dir"]) / "state.json"
"""Kept when the job is paused or started again."""

random.seed(0)
points = [(x, 3 * x - 1 + random.gauss(0, 0.05)) for x in (random.uniform(-1, 1) for _ in range(200))]
line = json.loads(state.read_text()) if state.exists() else {"step": 0, "slope": 0.0, "offset": 0.0}

while line["step"] < steps:
    errors = [(x, line["slope"] * x + line["offset"] - y) for x, y in points]
    line["slope"] -= learning_rate * sum(2 * x * error for x, error in errors) / len(points)
    line["offset"] -= learning_rate * sum(2 * error for _, error in errors) / len(points)
    line["step"] += 1
    half_written = state.with_suffix(".part")
    half_written.write_text(json.dumps(line))
    half_written.replace(state)
    loss = sum(error**2 for _, error in errors) / len(points)
    print(json.dumps({"step": line["step"], "total_steps": steps, "loss": loss, "learning_rate": learning_rate}))

(Path(told["output_dir"]) / "line.json").write_text(json.dumps(line))
print(json.dumps({"slope": line["slope"]}))  # a line without a step is a final number

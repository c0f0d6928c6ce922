"""LLaMA-Factory's own training run with our clock beside it: `python llamafactory_sft.py CONFIG.json MARKS.jsonl`.

The same call that `llamafactory-cli train CONFIG.json` makes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from llamafactory.train.tuner import run_exp
from marks import Marks


def main() -> None:
    config, marks = Path(sys.argv[1]), Path(sys.argv[2])
    run_exp(json.loads(config.read_text()), callbacks=[Marks(marks)])


if __name__ == "__main__":
    main()

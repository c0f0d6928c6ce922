"""What is asked of a run, as several processes that train together see it."""

from __future__ import annotations

from tunesmith.core.job_spec import Control
from tunesmith.engine.ranks import Ranks


def agreed(control: Control, ranks: Ranks) -> Control:
    """What every rank knows of by now: all of them must act at the same step."""
    if ranks.count == 1:
        return control
    seen = (float(control.stop), float(control.pause), control.checkpoint_seq, control.learning_rate_seq)
    stop, pause, checkpoint, learning_rate = ranks.least(*seen)
    return control.model_copy(
        update={
            "stop": bool(stop),
            "pause": bool(pause),
            "checkpoint_seq": int(checkpoint),
            "learning_rate_seq": int(learning_rate),
        }
    )

"""A virtual environment for each peer, made once, with pinned versions and the very torch that Tunesmith is tested with."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
PINS = {
    "trl": ("trl==1.16.0", "peft", "transformers", "accelerate", "datasets", "bitsandbytes", "torch"),
    "llamafactory": ("llamafactory==0.9.5", "bitsandbytes", "torch"),
    "autogluon": ("autogluon.tabular[lightgbm,catboost]==1.6.3",),
}
"""What to install; a name without a version takes the one in constraints.txt."""


def environment_python(peer: str, envs: Path) -> Path:
    """The interpreter of `peer`'s environment under `envs`, installed first if need be. Ends the program when that fails."""
    wanted = [pin if "==" in pin else _constrained(pin) for pin in PINS[peer]]
    digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:8]
    folder = envs / f"{peer}-{digest}"
    python = folder / "bin" / "python"
    whole = folder / "complete"
    if whole.exists():
        return python
    print(f"Installing {', '.join(wanted)} into {folder} (once) …", flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted])
    if peer == "llamafactory":
        _do_without_sound_and_pictures(python)
    whole.write_text("\n".join(wanted) + "\n")
    return python


def _constrained(name: str) -> str:
    pins = CONSTRAINTS.read_text().splitlines()
    return next(pin for pin in pins if pin.startswith(f"{name}=="))


def _do_without_sound_and_pictures(python: Path) -> None:
    """No build of torchaudio or torchvision fits some builds of torch (those for CPUs). LLaMA-Factory imports the first for
    sound only, so an empty module stands in; transformers does without the second when it is not there."""
    for name in ("torchaudio", "torchvision"):
        if subprocess.run([str(python), "-c", f"import {name}"], capture_output=True).returncode:
            _run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", name])
            if name == "torchaudio":
                find = "import sysconfig; print(sysconfig.get_path('purelib'))"
                (Path(_run([str(python), "-c", find]).strip()) / "torchaudio.py").write_text("")


def _run(command: list[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\nSet it right and start the bench again.")
    return done.stdout

"""A home folder with a database, small models in it, and versions made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.catalog.ground import make_base
from tests.conftest import lay_database
from tunesmith.features.registry import service
from tunesmith.features.registry.service import NewVersion
from tunesmith.features.registry.tables import VersionRow
from tunesmith.settings import Settings
from tunesmith.storage.database import Database


class Ground:
    """What the registry stands on, without a web server."""

    def __init__(self, home: Path, url: str | None = None) -> None:
        self.settings = Settings(home=home, database_url=url, hub_offline=True, min_free_bytes=0)
        self.settings.make_dirs()
        if url is None:
            lay_database(home)
        self.database = Database(self.settings.sqlalchemy_url)
        self.database.migrate()

    def register(self, new: NewVersion) -> VersionRow:
        prepared = service.prepare(self.settings, new)
        with self.database.unit_of_work() as session:
            return service.register(self.settings, session, new, prepared)

    def model(self, seed: int = 0, name: str = "support-bot", **fields: Any) -> VersionRow:
        """A registered whole model, whose weights are told by `seed`."""
        folder = self.settings.home / "made" / f"{name}-{seed}"
        if not folder.exists():
            make_base(folder, num_key_value_heads=1)
            weights(folder / "model.safetensors", seed)
        return self.register(NewVersion(name=name, sources={"model": folder}, kind="model", **fields))


def weights(path: Path, seed: int = 0) -> None:
    save_file({"w": np.full((64,), seed, np.float32)}, path)


def adapter(folder: Path, base: str = "base", seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": base, "peft_type": "LORA", "r": 8})
    )
    weights(folder / "adapter_model.safetensors", seed)
    return folder


def flip(path: Path) -> None:
    """Change one byte in the middle, as a bad disk would, and leave the length."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

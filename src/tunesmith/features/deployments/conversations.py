"""What people asked and a model answered, as a dataset for the next training."""

from __future__ import annotations

import json

from tunesmith.core.errors import Conflict
from tunesmith.features.datasets import files
from tunesmith.features.datasets.service import Datasets
from tunesmith.features.deployments.repository import DeploymentRepository, RequestRepository
from tunesmith.live.bus import Bus
from tunesmith.schemas.datasets import DatasetRead
from tunesmith.schemas.deployments import ToDataset
from tunesmith.settings import Settings
from tunesmith.storage.database import Database, Session


def make_dataset(settings: Settings, database: Database, bus: Bus, deployment_id: int, body: ToDataset) -> DatasetRead:
    """A dataset of `{"messages": […]}` rows, processed like an upload. Raises `Conflict` when there is nothing to train on."""
    with database.unit_of_work(readonly=True) as session:
        row = DeploymentRepository(session).get(deployment_id)
        found = [
            {"messages": [*(talk.messages or []), {"role": "assistant", "content": talk.answer}]}
            for talk in RequestRepository(session).conversations(deployment_id, body.rating, body.limit)
        ]
        name, records = row.name, bool(row.settings.get("record_conversations"))
    if not found:
        hint = "Rate some answers first." if records else "Switch record_conversations on in its settings, and use it."
        raise Conflict(f"{name} has no recorded conversations to make a dataset of.", hint=hint)
    incoming = files.Incoming(settings)
    try:
        for talk in found:
            incoming.write((json.dumps(talk, ensure_ascii=False) + "\n").encode())
        received = incoming.finish()
        with database.unit_of_work() as session:
            datasets = Datasets(settings, session, bus)
            made = datasets.create(
                received, f"{name}.jsonl", body.name, f"Conversations with {name}", tags=["conversations"]
            )
            return datasets.read([made])[0]
    finally:
        incoming.discard()


def rate(session: Session, deployment_id: int, uid: str, verdict: str | None) -> None:
    """What somebody thinks of one answer. Raises `NotFound`."""
    DeploymentRepository(session).get(deployment_id)
    RequestRepository(session).by_uid(deployment_id, uid).rating = verdict

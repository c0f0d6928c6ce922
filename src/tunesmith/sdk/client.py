"""The Python SDK: `from tunesmith import Client`."""

from __future__ import annotations

from tunesmith.sdk.accounts import Account, Audit, Users
from tunesmith.sdk.connection import Connection
from tunesmith.sdk.datasets import Datasets
from tunesmith.sdk.deployments import Deployments
from tunesmith.sdk.evaluations import Evaluations
from tunesmith.sdk.jobs import Jobs
from tunesmith.sdk.models import Models
from tunesmith.sdk.registry import Registry
from tunesmith.sdk.system import System


class Client:
    """A Tunesmith server. `url` is `TUNESMITH_URL`, else this machine's; `token` is an API key, else `TUNESMITH_API_KEY`,
    else what `tunesmith login` has stored for that server.

    >>> client = Client()
    >>> dataset = client.datasets.upload("support.jsonl")
    >>> job = client.jobs.create(model="HuggingFaceTB/SmolLM2-135M-Instruct", dataset_id=dataset.id)
    >>> for event in job.follow(): print(event)
    >>> job.download("support-bot.tar.gz")
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, timeout_s: float = 60.0) -> None:
        self.connection = Connection(url, token, timeout_s=timeout_s)
        self.datasets = Datasets(self.connection)
        self.jobs = Jobs(self.connection)
        self.models = Models(self.connection)
        self.registry = Registry(self.connection)
        self.evaluations = Evaluations(self.connection)
        self.deployments = Deployments(self.connection)
        self.system = System(self.connection)
        self.account = Account(self.connection)
        self.users = Users(self.connection)
        self.audit = Audit(self.connection)

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

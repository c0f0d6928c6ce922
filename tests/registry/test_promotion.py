"""Who may promote what: the gate, force, other people's names, and what keeps a version from being taken away."""

from __future__ import annotations

import pytest

from tests.registry.ground import Ground
from tunesmith.core.acting import ROLE_SCOPES, Act, Identity, Role, acting
from tunesmith.core.errors import Conflict, InUse, NotFound, PermissionDenied
from tunesmith.features.registry import changing, cleaning, comparing, listing, service
from tunesmith.features.registry.numbers import numbers, parse_condition
from tunesmith.features.registry.repository import VersionRepository
from tunesmith.features.registry.service import NewVersion
from tunesmith.features.registry.store import Store
from tunesmith.schemas.registry import CleanPolicy, RegisteredUpdate


def person(number: int, role: Role = Role.MEMBER) -> Act:
    return Act(Identity(number, f"person{number}", role, ROLE_SCOPES[role], "session"))


def refuse(*_told: object) -> str:
    return "eval_loss rose from 1.0 to 2.0."


def test_the_gate_refuses_and_only_administrators_go_past_it(ground: Ground) -> None:
    with acting(person(1)):
        ground.model(1)
        with (
            pytest.raises(Conflict, match="may not become champion: eval_loss rose"),
            ground.database.unit_of_work() as session,
        ):
            changing.set_alias(session, "support-bot", "champion", "1.0.0", gate=refuse)
        with pytest.raises(Conflict, match="may not become production"), ground.database.unit_of_work() as session:
            changing.set_stage(session, "support-bot@1.0.0", "production", gate=refuse)
        with pytest.raises(PermissionDenied), ground.database.unit_of_work() as session:
            changing.set_alias(session, "support-bot", "champion", "1.0.0", gate=refuse, force=True)
        with ground.database.unit_of_work() as session:
            assert changing.set_stage(session, "support-bot@1.0.0", "archived", gate=refuse).stage == "archived"
    with acting(person(2, Role.ADMIN)), ground.database.unit_of_work() as session:
        changing.set_alias(session, "support-bot", "champion", "1.0.0", gate=refuse, force=True)
        event = listing.events(session, "support-bot", cursor=None, limit=1).items[0]
    assert event.details["forced"] is True and event.by == "person2"


def test_names_are_somebodys_and_seen_as_they_wish(both: Ground) -> None:
    with acting(person(1)):
        both.model(1)
    with acting(person(2)):
        with pytest.raises(PermissionDenied, match="taken by somebody else"):
            both.model(2)
        with both.database.unit_of_work() as session:
            assert service.name_for(session, "support-bot", 2) == "support-bot-2"
            with pytest.raises(NotFound):
                service.find_version(session, "support-bot@1.0.0")
            assert listing.list_names(session, text=None, cursor=None, limit=10).items == []
    with acting(person(1)), both.database.unit_of_work() as session:
        changing.update_name(session, "support-bot", RegisteredUpdate(visibility="team"))
    with acting(person(2)), both.database.unit_of_work() as session:
        assert service.find_version(session, "support-bot@1.0.0").owner == "person1"
        with pytest.raises(PermissionDenied):
            changing.set_alias(session, "support-bot", "champion", "1.0.0", gate=lambda *_: None)
        with pytest.raises(PermissionDenied):
            changing.delete(both.settings, session, "support-bot@1.0.0", {})


def test_a_job_s_version_is_its_owner_s(ground: Ground) -> None:
    """The server's own threads register in somebody's name."""
    first = ground.model(1, owner_id=7, owner="person7", visibility="team", job_id=3)
    assert (first.owner_id, first.owner, first.visibility) == (7, "person7", "team")
    with pytest.raises(PermissionDenied):
        ground.model(2, owner_id=8, owner="person8")
    with ground.database.unit_of_work() as session:
        found = service.of_job(session, 3)
        assert found is not None and found.id == first.id and service.of_job(session, 4) is None


def test_what_is_used_stays_and_what_goes_is_gone(ground: Ground) -> None:
    rows = [ground.model(seed, metrics={"eval_loss": 1.0 + seed / 10}) for seed in range(6)]
    base = Store(ground.settings).folder(rows[0].id)
    made = ground.settings.home / "made" / "support-bot-0"
    ground.register(NewVersion(name="heir", sources={"model": made}, kind="model", lineage={"base_path": str(base)}))
    used = {rows[1].id: ["deployment night"]}
    policy = CleanPolicy(keep_last=1, metric="eval_loss<1.35", dry_run=False)
    with ground.database.unit_of_work() as session:
        changing.set_alias(session, "support-bot", "champion", "1.2.0", gate=lambda *_: None)
        with pytest.raises(InUse, match="deployment night"):
            changing.delete(ground.settings, session, "support-bot@1.1.0", used)
        done = cleaning.clean(ground.settings, session, policy, used)
    assert [item.ref for item in done.removed] == ["support-bot@1.3.0"]
    assert {item.ref: item.why for item in done.kept} == {
        "support-bot@1.0.0": "base of heir@1.0.0", "support-bot@1.1.0": "deployment night", "support-bot@1.2.0": "alias champion",
    }  # fmt: skip
    assert not Store(ground.settings).folder(rows[3].id).exists()
    with ground.database.unit_of_work() as session:
        assert [row.version for row in VersionRepository(session).of_name("support-bot")] == [
            "1.5.0",
            "1.4.0",
            "1.2.0",
            "1.1.0",
            "1.0.0",
        ]


def test_metrics_are_searched_ranked_and_told(both: Ground) -> None:
    for seed, loss in enumerate((1.5, 1.2, 1.3)):
        both.model(
            seed, metrics={"eval_loss": loss, "bad": float("nan")}, hyperparameters={"lora": {"r": seed}}, tags=["é"]
        )
    with both.database.unit_of_work() as session:
        row = service.find_version(session, "support-bot@1.1.0")
        service.add_scores(session, row, "held out", {"scores": {"wins": {"value": 3, "higher_is_better": False}}})
        assert numbers(row) == {"eval_loss": 1.2, "wins": 3.0, "held out/wins": 3.0}

        def found(*conditions: str) -> list[str]:
            wanted = [parse_condition(text) for text in conditions]
            page = listing.search(session, wanted, cursor=None, limit=10, tag="é", family="llama")
            return [item.version for item in page.items]

        assert found("eval_loss<=1.3") == ["1.2.0", "1.1.0"] and found("eval_loss<1.4", "wins>=3") == ["1.1.0"]
        first = listing.search(session, [parse_condition("eval_loss<9")], cursor=None, limit=2)
        rest = listing.search(session, [parse_condition("eval_loss<9")], cursor=first.next_cursor, limit=2)
        assert [item.version for item in first.items + rest.items] == [
            "1.2.0",
            "1.1.0",
            "1.0.0",
        ] and rest.next_cursor is None
        compared = comparing.compare(session, ["support-bot@1.0.0", "support-bot@1.1.0", "support-bot@latest"])
        assert compared.metrics[0].field == "eval_loss" and compared.metrics[0].best == 1
        log = comparing.changelog(session, "support-bot", cursor=None, limit=2).items
        assert [(item.metrics[0].better, item.changes[0].field) for item in log] == [
            (False, "lora.r"),
            (True, "lora.r"),
        ]
        shown = listing.get_name(session, "support-bot")
    assert (shown.trend_metric, shown.trend) == ("eval_loss", [1.5, 1.2, 1.3])

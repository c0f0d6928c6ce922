"""Accounts in a real browser: registering, logging in and out, invitations, keys, sharing, roles, the audit log."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.conftest import ServerProcess
from tests.ui.conftest import axe
from tests.ui.ground import conversations

PASSWORDS = {"ada": "quartz meadow lantern", "grace": "harbor violet sunrise", "linus": "copper winter station"}
NEW_PASSWORD = "granite willow compass"
PAGES = ["/", "/datasets", "/datasets/1", "/account", "/account?tab=keys", "/account?tab=logins", "/account?tab=quotas",
         "/users", "/users?tab=invitations", "/users?q=nobody-of-this-name", "/audit", "/audit?action=login&since=2026-01-01",
         "/system?tab=health"]  # fmt: skip
PUBLIC_PAGES = ["/login", "/register", "/forgot-password", "/reset-password", "/reset-password#token=x"]
ELSEWHERE = [
    "//evil.example", "///evil.example", "////evil.example/x", "/\\evil.example", "\\\\evil.example", "\\/evil.example",
    "/\t/evil.example", "/\n/evil.example", "/\r\n/evil.example", "\t//evil.example", " //evil.example", "/ /evil.example",
    "https://evil.example", "HTTPS:evil.example", "http:///evil.example", "https:/evil.example", "javascript:alert(1)",
    "data:text/html,x", "evil.example", "@evil.example", ".evil.example", ":80", "?next=//evil.example", "#//evil.example",
    "/a\\..\\\\evil.example", "/\x00/evil.example", "/\x0b/evil.example", "/\x85/evil.example", "\u2028//evil.example",
    "/\xa0/evil.example", "", "/" + "a" * 5000,
]  # fmt: skip
"""What must not be gone to after logging in; each in a way that some browser has taken for another host, or does not bear."""
HERE = [
    "/jobs",
    "/jobs?status=running&q=a%20b",
    "/datasets/1?tab=rows",
    "/a//b",
    "/%2f/evil.example",
    "/?u=https://evil.example",
]


@pytest.fixture
def server(start_server: Callable[..., ServerProcess]) -> ServerProcess:
    """With accounts, of which there are none yet; only this machine reaches it."""
    return start_server(TUNESMITH_AUTH="on")


def api(server: ServerProcess, name: str) -> httpx.Client:
    """That user's programs."""
    answer = httpx.post(f"{server.url}/api/v1/auth/login", json={"username": name, "password": PASSWORDS[name]})
    assert answer.status_code == 200, answer.text
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    return httpx.Client(base_url=f"{server.url}/api/v1", headers=headers, timeout=30)


def add_first(server: ServerProcess) -> httpx.Client:
    body = {"username": "ada", "email": "ada@example.org", "full_name": "Ada Lovelace", "password": PASSWORDS["ada"]}
    answer = httpx.post(f"{server.url}/api/v1/auth/register", json=body)
    assert answer.status_code == 201, answer.text
    return api(server, "ada")


def add_user(admin: httpx.Client, name: str, role: str) -> int:
    body = {"username": name, "email": f"{name}@example.org", "role": role, "password": PASSWORDS[name]}
    answer = admin.post("/users/", json=body)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def add_dataset(client: httpx.Client, name: str = "Support") -> int:
    params = {"file_name": "support.jsonl", "name": name}
    answer = client.put("/datasets/upload", params=params, content=conversations(20))
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def log_in(page: Any, server: ServerProcess, name: str, address: str = "/login", password: str = "") -> None:
    page.goto(server.url + address)
    page.get_by_label("Name or e-mail address").fill(name)
    field = page.get_by_label("Password")
    field.fill(password or PASSWORDS[name])
    if page.evaluate("matchMedia('(scripting: enabled)').matches"):
        page.get_by_role("button", name="Show what you type").click()
        assert field.get_attribute("type") == "text"
    else:
        assert page.get_by_role("button", name="Show what you type").count() == 0
    with page.expect_navigation():  # and until its scripts have run
        page.get_by_role("button", name="Log in", exact=True).click()


def log_out(page: Any) -> None:
    page.get_by_role("button", name="Your account").click()
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")


def alarms(page: Any) -> list[str]:
    """But for answers that a test asks for."""
    return [alarm for alarm in page.alarms if "status of 4" not in alarm]


def test_the_first_account_is_made_in_the_browser_and_logs_in_again(server: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    page.goto(f"{server.url}/datasets?q=x")
    page.wait_for_url(f"{server.url}/register")
    expect(page.get_by_role("navigation", name="Main")).to_have_count(0)
    expect(page.locator("main")).to_contain_text("This is the first account, so it becomes the administrator.")
    page.get_by_label("Name", exact=True).fill("ada")
    page.get_by_label("E-mail address").fill("ada@example.org")
    page.get_by_label("Full name").fill("Ada Lovelace")
    page.get_by_label("Password").fill("password")
    page.get_by_role("button", name="Create account").click()
    expect(page.get_by_role("alert")).to_contain_text("most common passwords")
    expect(page.get_by_label("Name", exact=True)).to_have_value("ada")
    page.get_by_label("Password").fill(PASSWORDS["ada"])
    page.get_by_role("button", name="Create account").click()
    page.wait_for_url(f"{server.url}/")
    (cookie,) = [cookie for cookie in page.context.cookies() if cookie["name"] == "tunesmith"]
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (
        "tunesmith",
        True,
        "Lax",
        False,
    )
    page.get_by_role("button", name="Your account").click()
    expect(page.locator("#user-menu")).to_contain_text("ada")
    expect(page.locator("#user-menu")).to_contain_text("admin")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(f"{server.url}/login")
    page.go_back()
    page.wait_for_url(re.compile("/login"))  # what was seen is not kept

    log_in(page, server, "ada", "/datasets?q=x", password="not this one")
    expect(page.get_by_role("alert")).to_contain_text("The name or the password is wrong.")
    expect(page.get_by_label("Name or e-mail address")).to_have_value("ada")
    expect(page.get_by_label("Password")).to_have_value("")
    page.get_by_label("Password").fill(PASSWORDS["ada"])
    page.get_by_role("button", name="Log in", exact=True).click()
    page.wait_for_url(f"{server.url}/datasets?q=x")
    assert alarms(page) == []


def test_logging_in_works_without_scripts_and_tells_wrong_and_too_often(
    server: ServerProcess, window: Callable[..., Any]
) -> None:
    from playwright.sync_api import expect

    add_first(server)
    page = window(java_script_enabled=False)
    log_in(page, server, "ada@example.org", "/jobs", password=PASSWORDS["ada"])
    page.wait_for_url(f"{server.url}/jobs")
    expect(page.get_by_role("heading", name="Training jobs", exact=True)).to_be_visible()

    form = {"username": "ada", "password": "not this one", "next": "/"}
    tried = []
    while len(tried) < 40 and (not tried or tried[-1].status_code == 401):  # one comes back every six seconds
        tried.append(httpx.post(f"{server.url}/login", data=form, timeout=30))
    assert len(tried) > 10 and tried[-1].status_code == 429 and "Too many tries" in tried[-1].text
    assert "set-cookie" not in tried[-1].headers
    page.context.clear_cookies(name="tunesmith")
    log_in(page, server, "ada", "/jobs")
    page.wait_for_url(f"{server.url}/jobs")  # a browser that is known is not held up


@pytest.mark.parametrize(
    ("content_type", "content", "status"),
    [
        ("application/json", b'{"username": "ada"}', 415),
        ("multipart/form-data; boundary=x", b"--x--", 415),
        ("application/x-www-form-urlencoded", b"username=" + b"a" * 9000, 413),
        ("application/x-www-form-urlencoded", b"&".join(b"a=1" for _ in range(100)), 400),
        ("application/x-www-form-urlencoded", b"username=%00&password=x", 400),
        ("application/x-www-form-urlencoded", b"username=%ff%fe&password=x", 400),
        ("application/x-www-form-urlencoded", "username=é".encode(), 400),
        ("application/x-www-form-urlencoded", b"", 422),
    ],
)
def test_a_form_that_is_none_is_refused(
    sqlite_server_with_accounts: str, content_type: str, content: bytes, status: int
) -> None:
    for path in ("/login", "/register"):
        answer = httpx.post(sqlite_server_with_accounts + path, content=content, headers={"Content-Type": content_type})
        assert answer.status_code == status, (path, answer.text[:500])
        assert "set-cookie" not in answer.headers


@pytest.fixture(scope="module")
def sqlite_server_with_accounts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One server, with one account, for tests that change nothing."""
    from tests.conftest import kill_processes_of

    server = ServerProcess(tmp_path_factory.mktemp("accounts") / "home", {"TUNESMITH_AUTH": "on"}).start()
    add_first(server)
    yield server.url
    server.stop()
    server.client.close()
    kill_processes_of(server.home)


def test_nobody_is_sent_elsewhere_after_logging_in(sqlite_server_with_accounts: str, page: Any) -> None:
    """What browsers make of each answer is asked of a browser."""
    url = sqlite_server_with_accounts
    form = {"username": "ada", "password": PASSWORDS["ada"]}
    page.goto(f"{url}/login")
    with httpx.Client() as client:
        for address in ("/jobs", "//evil.example", "/\\evil.example"):
            answer = client.post(f"{url}/login", data={**form, "next": address})
            assert (answer.status_code, answer.headers["location"]) == (303, "/jobs" if address == "/jobs" else "/")
        for address in [*ELSEWHERE, *HERE]:
            if "\0" in address:
                continue  # refused by the guard, before anything else
            answer = client.get(f"{url}/login", params={"next": address})
            assert answer.status_code == 303, repr(address)
            to = answer.headers["location"]
            assert page.evaluate("to => new URL(to, location.href).origin === location.origin", to), repr(address)
            assert to == (address if address in HERE else "/"), repr(address)
    without = httpx.get(f"{url}/login", params={"next": "//evil.example"})
    assert "evil.example" not in without.text


def test_another_site_cannot_log_somebody_in(sqlite_server_with_accounts: str) -> None:
    form = {"username": "ada", "password": PASSWORDS["ada"]}
    for origin in ("https://evil.example", "null"):
        answer = httpx.post(f"{sqlite_server_with_accounts}/login", data=form, headers={"Origin": origin})
        assert answer.status_code == 403 and "set-cookie" not in answer.headers


def test_a_change_needs_the_pages_token(server: ServerProcess, page: Any) -> None:
    add_first(server)
    log_in(page, server, "ada")
    page.wait_for_url(f"{server.url}/")
    send = """async headers => (await fetch("/api/v1/auth/keys", { method: "POST", body: JSON.stringify({ name: "x", scopes: ["read"] }),
        headers: { "Content-Type": "application/json", ...headers } })).status"""
    assert page.evaluate(send, {}) == 403
    assert page.evaluate(send, {"X-CSRF-Token": "0" * 64}) == 403
    token = page.locator('meta[name="csrf-token"]').get_attribute("content")
    page.reload()
    assert token != page.locator('meta[name="csrf-token"]').get_attribute("content"), (
        "compressed pages do not give it away"
    )
    assert page.evaluate(send, {"X-CSRF-Token": token}) == 201
    log_out(page)
    log_in(page, server, "ada")
    page.wait_for_url(f"{server.url}/")
    assert page.evaluate(send, {"X-CSRF-Token": token}) == 403, "it is that login's alone"


def test_an_invitation_brings_a_member_who_sees_what_is_shared(
    server: ServerProcess, page: Any, window: Callable[..., Any]
) -> None:
    from playwright.sync_api import expect

    dataset_id = add_dataset(add_first(server))
    log_in(page, server, "ada", "/users")
    page.get_by_role("button", name="Invite somebody").click()
    axe(page)
    page.get_by_role("button", name="Create link").click()
    dialog = page.get_by_role("dialog", name="The link")
    expect(dialog).to_be_visible()
    link = dialog.get_by_label("The link").input_value()
    assert link.startswith(f"{server.url}/register#invitation=")
    axe(page)
    dialog.get_by_role("button", name="Done").click()
    page.get_by_role("link", name="Invitations").click()
    expect(page.locator("#users tbody tr").filter(has_text="ada")).to_have_count(1)

    other = window()
    other.goto(f"{server.url}/register")
    expect(other.locator("main")).to_contain_text("You need an invitation")
    other.goto("about:blank")
    other.goto(link)
    other.get_by_role("link", name="Log in").click()
    other.wait_for_url(re.compile("/login#invitation=."))
    other.get_by_role("link", name="Register").click()
    other.wait_for_url(re.compile("/register#invitation=."))  # what the link brought is still there
    other.get_by_label("Name", exact=True).fill("grace")
    other.get_by_label("E-mail address").fill("grace@example.org")
    other.get_by_label("Password").fill(PASSWORDS["grace"])
    other.get_by_role("button", name="Create account").click()
    other.wait_for_url(f"{server.url}/")
    expect(other.get_by_role("link", name="Settings")).to_have_count(0)
    expect(other.get_by_role("link", name="Audit log")).to_have_count(0)
    for path in ("/users", "/audit", "/settings", "/system?tab=processes", "/system?tab=storage"):
        assert other.goto(server.url + path).status == 403, path
    assert other.goto(f"{server.url}/system?tab=health").status == 200
    assert other.goto(f"{server.url}/datasets/{dataset_id}").status == 404

    page.goto(f"{server.url}/datasets/{dataset_id}")
    expect(page.locator("#dataset-head")).to_contain_text("private")
    page.get_by_role("button", name="Share with the team").click()
    expect(page.get_by_text("Everybody with an account sees it now.")).to_be_visible()
    expect(page.locator("#dataset-head")).to_contain_text("team")
    other.goto(f"{server.url}/datasets")
    row = other.locator(f"#dataset-{dataset_id}")
    expect(row).to_contain_text("ada")
    expect(row).to_contain_text("team")
    row.get_by_role("link", name="Support").click()
    expect(other.locator("#dataset-head")).to_contain_text("team")
    expect(other.get_by_role("button", name="Make private")).to_have_count(0)
    page.get_by_role("button", name="Make private").click()
    expect(page.get_by_role("button", name="Share with the team")).to_be_visible()
    assert other.goto(f"{server.url}/datasets/{dataset_id}").status == 404
    assert alarms(page) == [] and alarms(other) == []


def test_a_key_is_shown_once_works_and_is_revoked(server: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    add_first(server)
    log_in(page, server, "ada", "/account?tab=keys")
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Name").fill("nightly")
    page.get_by_role("button", name="Create key").click()
    expect(page.get_by_role("dialog", name="Your new key")).to_be_visible()
    key = page.locator("#shown-once-text").input_value()
    with httpx.Client(base_url=f"{server.url}/api/v1", headers={"Authorization": f"Bearer {key}"}) as program:
        assert program.get("/auth/me").json()["scopes"] == ["read"]
        assert program.post("/jobs/", json={"name": "x"}).status_code == 403
        page.get_by_role("button", name="Done").click()
        page.reload()
        row = page.locator("#keys tbody tr")
        expect(row).to_contain_text("nightly")
        expect(row).to_contain_text("from 127.0.0.1")
        assert key not in page.content()
        page.get_by_role("button", name="Revoke nightly").click()
        page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        expect(page.get_by_text("No keys yet")).to_be_visible()
        assert program.get("/auth/me").status_code == 401
    assert alarms(page) == []


def test_a_viewer_is_offered_nothing_that_is_refused(server: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    admin = add_first(server)
    add_user(admin, "linus", "viewer")
    dataset_id = add_dataset(admin)
    admin.patch(f"/datasets/{dataset_id}", json={"visibility": "team"})
    log_in(page, server, "linus")
    page.wait_for_url(f"{server.url}/")
    for path in ("/", "/datasets", f"/datasets/{dataset_id}", "/jobs"):
        page.goto(server.url + path)
        for name in (
            "Upload",
            "Upload datasets",
            "New training job",
            "New job",
            "Add data",
            "Train on this dataset",
            "Delete",
        ):
            expect(page.get_by_role("link", name=name, exact=True)).to_have_count(0)
            expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
    page.keyboard.press("Control+k")
    expect(page.locator("#palette-list")).to_contain_text("Chat with a model")
    expect(page.locator("#palette-list")).not_to_contain_text("Upload a dataset")
    page.keyboard.press("Escape")
    told = page.evaluate("""async path => { const { call } = await import(document.querySelector('script[type=module]').src.replace("app.js", "api.js"));
        return call(path, { method: "PATCH", json: { name: "mine" } }).catch(error => error.message); }""", f"/datasets/{dataset_id}")  # fmt: skip
    assert told == "Your account is of role viewer, which may not do this."
    assert alarms(page) == []


def test_a_new_password_ends_the_login(server: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    add_first(server)
    log_in(page, server, "ada", "/account")
    page.get_by_label("Current password").fill("not this one")
    page.get_by_label("New password").fill(NEW_PASSWORD)
    page.get_by_role("button", name="Change the password").click()
    expect(page.locator("[data-problem]")).to_have_text("not this one")
    page.get_by_label("Current password").fill(PASSWORDS["ada"])
    page.get_by_role("button", name="Change the password").click()
    page.wait_for_url(f"{server.url}/login")
    expect(page.get_by_text("Your password is changed. Log in with it.")).to_be_visible()
    log_in(page, server, "ada")
    expect(page.get_by_role("alert")).to_contain_text("wrong")
    log_in(page, server, "ada", password=NEW_PASSWORD)
    page.wait_for_url(f"{server.url}/")
    assert alarms(page) == []


def test_a_link_to_a_new_password_works_once(server: ServerProcess, page: Any, window: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    admin = add_first(server)
    user_id = add_user(admin, "grace", "member")
    log_in(page, server, "ada", "/users")
    page.get_by_role("button", name="Actions for grace").click()
    page.get_by_role("button", name="Link to a new password").click()
    expect(page.get_by_role("dialog", name="The link")).to_be_visible()
    link = page.locator("#shown-once-text").input_value()
    other = window()
    for problem in ("", "This link was used, or has expired."):
        other.goto("about:blank")
        other.goto(link)
        other.get_by_label("New password").fill(NEW_PASSWORD)
        other.get_by_role("button", name="Set the password").click()
        if problem:
            expect(other.get_by_role("alert")).to_contain_text(problem)
        else:
            # The text is there from the start, but hidden.
            other.get_by_text("API keys that you did not keep have ended too").wait_for()
    other.goto(f"{server.url}/reset-password")
    other.reload()
    expect(other.get_by_role("alert")).to_contain_text("This link is not whole.")
    log_in(other, server, "grace", password=NEW_PASSWORD)
    other.wait_for_url(f"{server.url}/")
    assert admin.get(f"/users/{user_id}").json()["last_login_at"]
    assert alarms(page) == [] and alarms(other) == []


def test_an_administrator_disables_gives_quotas_and_reads_the_log(
    server: ServerProcess, page: Any, window: Callable[..., Any]
) -> None:
    from playwright.sync_api import expect

    add_user(add_first(server), "grace", "member")
    member, idle = window(), window()
    for one in (member, idle):
        log_in(one, server, "grace", "/jobs")
        one.wait_for_url(f"{server.url}/jobs")
    log_in(page, server, "ada", "/users")
    page.get_by_role("button", name="Actions for grace").click()
    page.get_by_role("button", name="Quotas").click()
    dialog = page.get_by_role("dialog", name="Quotas of grace")
    dialog.get_by_label("Storage, GB").fill("2.5")
    dialog.get_by_label("Jobs that wait").fill("3")
    axe(page)
    dialog.get_by_role("button", name="Save").click()
    expect(page.locator("#user-2")).to_contain_text("2.5 GB")
    member.goto(f"{server.url}/account?tab=quotas")
    expect(member.locator("#quota-storage_bytes")).to_contain_text("0 B of 2.5 GB")
    expect(member.locator("#quota-gpu_hours")).to_contain_text("no limit")
    page.get_by_role("button", name="Actions for grace").click()
    page.get_by_role("button", name="Make viewer").click()
    expect(page.locator("#user-2")).to_contain_text("viewer")
    page.get_by_role("button", name="Actions for grace").click()
    page.get_by_role("button", name="Disable").click()
    page.get_by_role("dialog").get_by_role("button", name="Disable").click()
    expect(page.locator("#user-2")).to_contain_text("disabled")

    member.goto(f"{server.url}/account?tab=quotas")
    member.wait_for_url(f"{server.url}/login?next=%2Faccount%3Ftab%3Dquotas")
    idle.evaluate(
        "document.body.dispatchEvent(new CustomEvent('tunesmith:jobs'))"
    )  # a part of the page asks for itself
    idle.wait_for_url(re.compile(r"/login\?next=%2Fjobs"))
    log_in(member, server, "grace")
    expect(member.get_by_role("alert")).to_contain_text("wrong")

    page.get_by_role("link", name="Audit log").click()
    page.wait_for_url(f"{server.url}/audit")
    lines = page.locator("#audit tbody tr")
    expect(lines.filter(has_text="update_user")).to_have_count(3)
    expect(lines.filter(has_text="refused 401")).to_have_count(1)
    page.get_by_label("Action").select_option("update_user")
    expect(lines).to_have_count(3)
    href = page.get_by_role("link", name="JSON Lines").get_attribute("href")
    assert "action=update_user" in href
    assert len(page.request.get(server.url + href).text().splitlines()) == 3
    page.get_by_role("button", name="Check the log").click()
    expect(page.locator("#verified")).to_contain_text("as they were written")
    assert alarms(page) == []


def test_logins_are_listed_and_ended(server: ServerProcess, page: Any, window: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    add_first(server)
    other = window()
    log_in(other, server, "ada", "/account")
    other.wait_for_url(f"{server.url}/account")
    log_in(page, server, "ada", "/account?tab=logins")
    logins = page.locator("#logins li")
    expect(logins).to_have_count(3)  # two browsers, and the program of `add_first`
    expect(logins.filter(has_text="this one")).to_contain_text("Chrome on Linux")
    logins.filter(has_text="Chrome on Linux").get_by_role("button", name="End").click()
    expect(logins).to_have_count(2)
    other.get_by_role("button", name="Save").click()
    other.wait_for_url(f"{server.url}/login?next=%2Faccount")
    page.get_by_role("button", name="Log out everywhere").click()
    page.get_by_role("dialog").get_by_role("button", name="Log out everywhere").click()
    page.wait_for_url(f"{server.url}/login")
    assert alarms(page) == []


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 375)])
def test_every_page_of_accounts_can_be_used_by_everybody(
    server: ServerProcess, window: Callable[..., Any], theme: str, width: int
) -> None:
    admin = add_first(server)
    add_user(admin, "grace", "member")
    add_dataset(admin)
    admin.post(
        "/auth/keys", json={"name": "nightly training of the support bot", "scopes": ["read", "train", "deploy"]}
    )
    admin.post("/invitations/", json={"email": "somebody.with.a.long.name@departments.example.org"})
    page = window(width, 800, color_scheme=theme)
    for addresses in (PUBLIC_PAGES, PAGES):
        for address in addresses:
            page.goto("about:blank")
            page.goto(server.url + address)
            page.wait_for_timeout(150)
            axe(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{address} at {width} px"
            assert "style=" not in httpx.get(server.url + address).text
        if addresses is PUBLIC_PAGES:
            log_in(page, server, "ada")
            page.wait_for_url(f"{server.url}/")
    assert alarms(page) == []


def test_without_accounts_the_pages_say_how_to_have_them(sqlite_server: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    for path in ("/login", "/register", "/forgot-password", "/reset-password"):
        answer = httpx.get(sqlite_server.url + path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/"), path
    assert httpx.post(f"{sqlite_server.url}/login", data={"username": "a", "password": "b"}).headers["location"] == "/"
    for path in ("/account", "/users"):
        page.goto(sqlite_server.url + path)
        expect(page.locator("main")).to_contain_text("TUNESMITH_AUTH=on tunesmith up")
        axe(page)
    page.goto(f"{sqlite_server.url}/audit")
    axe(page)
    expect(page.get_by_role("button", name="Your account")).to_have_count(0)
    page.get_by_role("button", name="Check the log").click()
    expect(page.locator("#verified")).to_contain_text("as they were written")
    assert not page.alarms

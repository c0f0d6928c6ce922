"""Pages of datasets in a real browser: upload, rows by the million, findings and repairs, edits, lists, media, access for all."""

from __future__ import annotations

import io
import json
import re
import wave
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServerProcess, kill_processes_of
from tests.dataprep.workbook import workbook
from tests.ui.conftest import axe
from tests.ui.ground import conversations, reviews, upload

NAME = '<img src=x onerror="alert(1)">'
PROBE = '<img src=x onerror="alert(1)">"><script>alert(2)</script>'
ROUGH = [
    *({"question": f"what is {n}", "answer": f"it is {n}"} for n in range(120)),
    {"question": "  cafÃ© or tea? ", "answer": "coffee"},
    {"question": "what is nothing", "answer": ""},
    {"question": "again", "answer": "the same"},
    {"question": "again", "answer": "the same"},
]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def media_zip() -> bytes:
    sound, archive = io.BytesIO(), io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(8000))
    with zipfile.ZipFile(archive, "w") as file:
        for n in range(3):
            file.writestr(f"bells/{n}.wav", sound.getvalue())
    return archive.getvalue()


def image_zip() -> bytes:
    from PIL import Image

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for n in range(40):
            picture = io.BytesIO()
            Image.new("RGB", (64, 48), (6 * n, 90, 160)).save(picture, "PNG")
            file.writestr(f"blue/{n:02}.png", picture.getvalue())
    return archive.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all of these; tests make what they change."""
    server = ServerProcess(tmp_path_factory.mktemp("datasets") / "home").start()
    yield server
    server.stop()
    server.client.close()
    kill_processes_of(server.home)


def expect(what: Any) -> Any:
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)  # processes start slowly on a busy machine
    return expect(what)


def drop(page: Any, files: dict[str, bytes]) -> None:
    """Drop files on the page, as a person does."""
    page.evaluate(
        """files => {
            const data = new DataTransfer();
            for (const [name, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name));
            for (const type of ["dragenter", "dragover", "drop"])
                document.body.dispatchEvent(new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        [[name, list(content)] for name, content in files.items()],
    )


def test_files_dropped_on_the_list_are_seen_before_they_are_saved(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/datasets")
    drop(
        page,
        {
            "rough.jsonl": lines(ROUGH).encode(),
            "empty.csv": b"",
            "odd.csv": b"prompt text,reply\nhello,there\nyou,too\n",
        },
    )
    rough, empty, odd = (
        page.locator(f'.upload[aria-label="{name}"]') for name in ("rough.jsonl", "empty.csv", "odd.csv")
    )
    expect(rough).to_contain_text("not saved yet")
    expect(rough).to_contain_text("1 empty row")
    expect(rough.locator(".bubble[data-role=user]").first).to_contain_text("what is 0")
    expect(empty).to_contain_text("The file is empty.")
    assert server.client.get("/datasets/", params={"q": "rough"}).json()["total"] == 0
    expect(odd).to_contain_text("not saved yet")
    odd.get_by_label("Each row is").select_option("input_output")
    odd.get_by_label("Column of the input").select_option("prompt text")
    odd.get_by_label("Column of the output").select_option("reply")
    expect(odd.locator(".bubble").nth(0)).to_contain_text("hello")
    expect(odd.locator(".bubble").nth(1)).to_contain_text("there")
    odd.get_by_label("Name").fill("Odd columns")
    odd.get_by_label("Tags").fill("small, mine")
    page.get_by_role("button", name="Remove empty.csv").click()
    axe(page, include="main")
    page.get_by_role("button", name="Save all").click()
    expect(odd).to_contain_text("Saved.")
    made = server.client.get("/datasets/", params={"q": "Odd columns"}).json()["items"][0]
    assert made["tags"] == ["mine", "small"]
    done = server.wait_for(f"/datasets/{made['id']}", lambda found: found["status"] == "ready")
    assert done["mapping"] == {"input": "prompt text", "output": "reply"}
    expect(page.locator(f"#dataset-{made['id']}")).to_contain_text("ready")
    assert not page.alarms


def test_how_a_file_is_read_is_chosen_and_seen(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/datasets/new")
    faq: list[list[object]] = [["A title"], ["Frage", "Antwort"], ["outer question", "outer answer"], ["more", "of it"]]
    inside: list[list[object]] = [["Frage", "Antwort"], ["inner question", "inner answer"]]
    page.set_input_files("#files", [
        {"name": "book.xlsx", "mimeType": "application/octet-stream", "buffer": workbook(faq, inside)},
        {"name": "plain.csv", "mimeType": "text/csv", "buffer": "".join(f"What is {n}?,It is {n}.\n" for n in range(9)).encode()},
    ])  # fmt: skip
    book, plain = (page.locator(f'.upload[aria-label="{name}"]') for name in ("book.xlsx", "plain.csv"))
    expect(book.locator(".bubble").first).to_contain_text("outer question")
    expect(book).to_contain_text("Sheet S1 was read; there is also S2 (1 row)")
    book.locator("[data-option=sheet]").focus()
    book.locator("[data-option=sheet]").select_option("S2")
    expect(book.locator(".bubble").first).to_contain_text("inner question")
    expect(book.locator("[data-option=header_row]")).to_have_value("1")
    expect(book.locator("[data-option=sheet]")).to_be_focused()
    expect(plain).to_contain_text("line 1 looks like those below it")
    plain.locator("[data-option=header_row]").fill("700")
    plain.locator("[data-option=header_row]").blur()
    expect(plain).to_contain_text("There is no line 700 to be the header.")
    plain.locator("[data-option=columns]").fill("question, answer")
    plain.locator("[data-option=columns]").blur()
    expect(plain.locator(".bubble").first).to_contain_text("What is 0?")
    expect(plain.get_by_text("no line 700")).to_be_hidden()
    axe(page, include="main")
    page.get_by_role("button", name="Save all").click()
    expect(page.locator('.upload[data-state="saved"]')).to_have_count(2)
    read, other = (server.client.get("/datasets/", params={"q": name}).json()["items"][0]["id"] for name in ("plain", "book"))  # fmt: skip
    done = server.wait_for(f"/datasets/{read}", lambda found: found["status"] == "ready")
    assert (done["columns"], done["shape"], done["num_rows"]) == (["question", "answer"], "question_answer", 9)
    server.wait_for(f"/datasets/{other}", lambda found: found["status"] == "ready")
    page.goto(f"{server.url}/datasets/{other}?tab=columns")
    page.locator("[data-option=columns] input").first.focus()
    page.keyboard.press("Space")
    expect(page.locator("[data-option=columns] input").first).to_be_focused()
    page.locator("[data-option=sheet]").select_option("S1")
    axe(page, include="main")
    page.get_by_role("button", name="Read the file again").click()
    again = server.wait_for(f"/datasets/{other}", lambda found: found["status"] == "ready" and found["num_rows"] == 2)
    assert again["reading"]["sheet"] == "S1"
    expect(page.locator("[data-mapping-example]")).to_contain_text("outer question")
    assert all("422" in alarm for alarm in page.alarms), page.alarms


def test_an_upload_that_breaks_goes_on_where_it_stopped(server: ServerProcess, page: Any, tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_bytes(b"question,answer\n" + b"what is this all about,it is about that\n" * 600_000)
    offsets: list[int] = []
    page.on(
        "request",
        lambda asked: offsets.append(int(found[1])) if (found := re.search(r"offset=(\d+)", asked.url)) else None,
    )
    page.goto(f"{server.url}/datasets/new")
    page.route("**/uploads/*?offset=*", lambda route: route.abort() if len(offsets) == 2 else route.continue_())
    page.set_input_files("#files", path)
    expect(page.locator(".upload-note")).to_contain_text("Trying again")
    page.get_by_role("button", name="Pause long.csv").click()
    expect(page.locator(".upload-note")).to_contain_text("Paused at 8.4 MB of 24.0 MB")
    page.once("dialog", lambda dialog: dialog.accept())
    page.reload()
    page.set_input_files("#files", path)
    expect(page.locator(".upload")).to_contain_text("not saved yet")
    expect(page.locator(".upload")).to_contain_text("more than 20,000")
    part = 8 * 2**20
    assert offsets == [0, part, part, 2 * part], "the first part was not sent again"
    page.get_by_label("Name").fill("Long one")
    page.get_by_role("button", name="Save dataset").click()
    page.wait_for_url("**/datasets/*")
    expect(page.locator("#page-title")).to_have_text("Long one")
    expect(page.locator("#dataset-head")).to_contain_text("600,000 rows", timeout=90_000)  # without a reload
    expect(page.locator(".rows-line").first).to_contain_text("what is this all about")


@pytest.fixture(scope="module")
def million(server: ServerProcess) -> int:
    rows = "question,answer\n" + "".join(f"what is {n},it is {n}\n" for n in range(1_000_000))
    return upload(server, "A million", "million.csv", rows)


def test_a_million_rows_are_walked_with_few_in_the_page(server: ServerProcess, page: Any, million: int) -> None:
    page.goto(f"{server.url}/datasets/{million}?view=table")
    grid = page.get_by_role("grid", name="Rows")
    expect(grid).to_have_attribute("aria-rowcount", "1000001")
    expect(page.locator(".rows-line").first).to_contain_text("what is 0")
    grid.evaluate("grid => { grid.scrollTop = grid.scrollHeight / 2; }")
    expect(page.locator(".rows-line", has_text=re.compile(r"what is (499|500)\d{3}it")).first).to_be_visible()
    page.get_by_label("Go to row").fill("765432")
    page.get_by_label("Go to row").press("Enter")
    focused = page.locator(".rows-line:focus")
    expect(focused).to_contain_text("what is 765431")
    for key, row in (("ArrowDown", 765433), ("ArrowUp", 765432), ("End", 1_000_000), ("ArrowUp", 999_999), ("Home", 1)):
        page.keyboard.press(key)
        expect(focused).to_have_attribute("aria-rowindex", str(row + 1))
        expect(focused).to_contain_text(f"what is {row - 1}")
    assert page.locator(".rows-line").count() < 60
    page.get_by_label("Search in rows").fill("IS 99999")
    expect(page.locator(".rows-line")).to_have_count(11)
    expect(page.locator(".rows-count")).to_have_text("11 rows of 1,000,000")
    assert "q=IS+99999" in page.url
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Row 100,000")).to_contain_text("it is 99999")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog", name="Row 999,991")).to_contain_text("it is 999990")
    page.keyboard.press("Escape")
    assert not page.alarms


def test_from_a_finding_to_its_rows_and_a_repair_seen_before_it_is_made(server: ServerProcess, page: Any) -> None:
    dataset = upload(server, "Rough edges", "rough.jsonl", lines(ROUGH))
    page.goto(f"{server.url}/datasets/{dataset}?tab=validation")
    card = page.locator(".finding-card", has_text="1 duplicate row")
    card.get_by_role("link", name="Show these rows").click()
    expect(page.locator(".rows-line")).to_have_count(1)
    expect(page.locator(".rows-line")).to_contain_text("124")
    page.go_back()
    page.get_by_role("link", name="Row 122", exact=True).click()
    expect(page.locator(".rows-line:focus")).to_contain_text("what is nothing")
    page.go_back()
    card.get_by_role("button", name="Drop the repeats").click()
    expect(page.locator("#repair-diff")).to_contain_text("124 rows become 123")
    page.get_by_label("Mend wrongly decoded text").check()
    page.get_by_label("Cut blanks").check()
    page.get_by_label("Drop rows by length").check()
    page.get_by_label("Input at least").fill("1")
    page.get_by_label("Output at least").fill("1")
    page.get_by_role("button", name="Preview the changes").click()
    diff = page.locator("#repair-diff")
    expect(diff.locator("del", has_text="cafÃ©")).to_be_visible()
    expect(diff.locator("ins", has_text="café")).to_be_visible()
    assert len(server.client.get(f"/datasets/{dataset}/versions").json()) == 1, "nothing is made by looking"
    axe(page, include="main")
    page.get_by_role("button", name="Make the repaired version").click()
    expect(page.locator("#dataset-head")).to_contain_text("version 2", timeout=60_000)
    expect(page.locator(".finding-card", has_text="1 duplicate row")).to_have_count(0)
    page.get_by_role("link", name="Versions").click()
    page.wait_for_load_state()
    expect(page.locator(".version").first).to_contain_text("Repaired from version 1")
    page.get_by_role("button", name="Use version 1").click()
    expect(page.locator("#dataset-head")).to_contain_text("version 1")
    assert not page.alarms


def test_a_row_is_edited_and_deleted_and_both_undone(server: ServerProcess, page: Any) -> None:
    dataset = upload(server, "To be edited", "edit.jsonl", lines(ROUGH))
    page.goto(f"{server.url}/datasets/{dataset}")
    page.locator(".rows-line", has_text="what is 1").first.click()
    dialog = page.locator("dialog[open]")
    dialog.get_by_role("button", name="Edit").click()
    dialog.get_by_label("answer").fill(PROBE)
    dialog.get_by_role("button", name="Save as a new version").click()
    expect(page.locator("#dataset-head")).to_contain_text("version 2", timeout=60_000)
    expect(page.locator(".rows-line").nth(1)).to_contain_text(PROBE)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#dataset-head")).to_contain_text("version 1", timeout=60_000)
    expect(page.locator(".rows-line").nth(1)).to_contain_text("it is 1")
    page.locator(".rows-line").first.click()
    page.locator("dialog[open]").get_by_role("button", name="Delete row").click()
    page.locator("#sure-yes").click()
    expect(page.locator("#dataset-head")).to_contain_text("123 rows", timeout=60_000)
    assert not page.alarms


def test_pictures_are_shown_and_sounds_played(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/datasets/{upload(server, 'Blues', 'blues.zip', image_zip())}")
    image = page.locator(".tile img").first
    expect(image).to_be_visible()
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    axe(page, include="main")
    page.goto(f"{server.url}/datasets/{upload(server, 'Bells', 'bells.zip', media_zip())}")
    expect(page.locator("audio")).to_have_count(3)
    seconds = page.locator("audio").first.evaluate("""async player => {
        player.muted = true;
        await player.play();
        await new Promise(resolve => player.addEventListener("ended", resolve));
        return player.currentTime; }""")
    assert seconds == pytest.approx(0.5, abs=0.1)
    axe(page, include="main")
    assert not page.alarms


def test_the_list_is_searched_sorted_tagged_and_cleared(server: ServerProcess, page: Any) -> None:
    for name, count in (("zoo large", 40), ("zoo small", 5), ("zoo middle", 20)):
        upload(server, name, "zoo.jsonl", conversations(count))
    page.goto(f"{server.url}/datasets")
    names = page.locator("#datasets .name")
    page.keyboard.press("/")
    page.keyboard.type("zoo")
    expect(names).to_have_count(3)
    page.wait_for_url("**/datasets?q=zoo")
    page.get_by_role("link", name="Rows").click()
    expect(names).to_have_text(["zoo large", "zoo middle", "zoo small"])
    page.get_by_role("link", name="Rows").click()
    expect(names).to_have_text(["zoo small", "zoo middle", "zoo large"])
    page.wait_for_load_state()
    page.get_by_label("Select zoo small").check()
    page.get_by_label("Select zoo middle").check()
    page.get_by_role("button", name="Tag", exact=True).click()
    page.keyboard.type("animals")
    page.keyboard.press("Enter")
    expect(page.locator("#datasets .tag", has_text="animals")).to_have_count(2)
    page.locator("#datasets .tag").first.click()
    page.wait_for_url("**/datasets?**tag=animals**")
    page.wait_for_load_state()
    expect(names).to_have_count(2)
    page.get_by_label("Select all on this page").check()
    page.get_by_role("button", name="Delete", exact=True).first.click()
    page.keyboard.type("2 datasets")
    page.keyboard.press("Enter")
    expect(page.locator("#datasets")).to_contain_text("No matches")
    left = [item["name"] for item in server.client.get("/datasets/", params={"q": "zoo"}).json()["items"]]
    assert left == ["zoo large"] and not page.alarms
    page.goto(f"{server.url}/datasets?q=zoo")
    page.clock.install()
    page.get_by_role("button", name="Actions for zoo large").click()
    page.get_by_role("button", name="Delete", exact=True).last.click()
    undo = page.get_by_role("button", name="Undo")
    undo.hover()  # a message stays while somebody is on it
    with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        page.clock.fast_forward(9000)
    expect(undo).to_have_count(0)


def test_what_people_write_is_shown_and_never_run(server: ServerProcess, page: Any) -> None:
    rows = [{"messages": [{"role": role, "content": PROBE}, {"role": "assistant", "content": PROBE}]}
            for role in ("user", "user", PROBE)]  # fmt: skip
    dataset = upload(server, NAME, f"{NAME}.jsonl", lines(rows))
    table = upload(
        server, "probing", "t.csv", f'"{PROBE.replace(chr(34), chr(34) * 2)}",label\n' + 'x,"<b>y</b>"\n' * 5
    )
    changes = {"description": PROBE, "tags": [PROBE[:50]]}
    assert server.client.patch(f"/datasets/{dataset}", json=changes).status_code == 200
    page.goto(f"{server.url}/datasets")
    expect(page.locator("#datasets")).to_contain_text(PROBE)
    page.get_by_label(f"Select {NAME}", exact=True).check()
    page.get_by_role("button", name="Delete", exact=True).first.click()
    expect(page.locator("#sure-more")).to_contain_text(NAME)
    page.keyboard.press("Escape")
    for one in (dataset, table):
        for tab in ("rows", "statistics", "validation", "columns", "versions"):
            page.goto(f"{server.url}/datasets/{one}?tab={tab}")
            expect(page.locator("#dataset-body")).to_be_visible()
    page.goto(f"{server.url}/datasets/{dataset}")
    page.locator(".rows-line").first.click()
    expect(page.locator("dialog[open] .bubble").first).to_contain_text(PROBE)
    page.goto(f"{server.url}/datasets/new")
    drop(page, {f"{NAME}.jsonl": lines(rows).encode()})
    expect(page.locator(".upload")).to_contain_text("not saved yet")
    assert not page.alarms


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 375)])
def test_every_page_is_open_to_all(server: ServerProcess, window: Callable[..., Any], theme: str, width: int) -> None:
    chat = upload(server, "Support", "support.jsonl", conversations(200))
    table = upload(server, "Reviews", "reviews.csv", reviews(200))
    broken = upload(server, "Broken", "broken.parquet", b"PAR1 and no more")
    page = window(width, 800, color_scheme=theme)
    for address in ("", "/new", f"/{broken}", *(f"/{one}?tab={tab}" for one in (chat, table) for tab in
                    ("rows", "statistics", "validation", "columns", "versions"))):  # fmt: skip
        page.goto(f"{server.url}/datasets{address}")
        if "rows" in address:
            expect(page.locator(".rows-line").nth(1)).to_be_visible()
        axe(page, include="main")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
    assert not page.alarms

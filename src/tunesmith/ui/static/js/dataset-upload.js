// @ts-check
/** Files dropped or chosen: sent with a true bar, looked at, shown with what validation finds, and then saved. */
import { Transfer } from "./dataset-transfer.js";
import { mappingControls } from "./dataset-mapping.js";
import { readingControls } from "./dataset-reading.js";
import { cells, chat, messagesOf, remember, shown } from "./dataset-row.js";
import { $, announce, icon, make, setText, showProblem, throttle } from "./dom.js";
import { toast, toastError } from "./toast.js";
import { bytes, duration, number, plural } from "./words.js";

/** Findings that are answered by reading the file in another way. */
const OF_READING = ["no_header", "unsure_header", "title_lines", "other_sheets", "duplicate_columns", "encoding"];
const SHOWN_ROWS = 8, SHOWN_CHATS = 3, SHOWN_COLUMNS = 8;
/** How many files are sent at the same time; they are looked at one by one. */
const AT_ONCE = 2;
/** @typedef {"waiting" | "sending" | "paused" | "looking" | "ready" | "saving" | "saved" | "failed"} State */

/** @type {Item[]} */
const items = [];
/** @type {any} */
let shapes = {};
let maxBytes = Infinity;

/** @param {string} text @param {string} name @param {() => void} press @param {Record<string, string>} [more] */
function button(text, name, press, more = {}) {
  const made = make("button", undefined, { type: "button", class: "btn", "data-variant": "outline", "data-size": "sm", ...more }, [icon(name), text]);
  made.addEventListener("click", press);
  return made;
}

/** One file. */
class Item {
  /** @param {File} file */
  constructor(file) {
    this.file = file;
    this.transfer = new Transfer(file);
    /** @type {State} */
    this.state = "waiting";
    this.begun = 0;
    this.already = 0;
    this.trouble = "";
    /** @type {any} */
    this.preview = null;
    /** @type {Record<string, unknown>} how it is to be read, as far as it was chosen */
    this.reading = {};
    this.isRefused = false;
    this.made = 0;
    /** @type {Promise<void> | null} */
    this.looking = null;
    this.build();
  }

  build() {
    this.title = make("strong", this.file.name, { class: "clip" });
    this.note = make("span", "", { class: "upload-note" });
    this.buttons = make("div", undefined, { class: "row" });
    this.bar = make("progress", undefined, { class: "bar", max: "1", value: "0", "aria-label": `Upload of ${this.file.name}` });
    this.problem = make("div", undefined, { hidden: "" });
    this.more = make("div", undefined, { class: "stack" });
    const head = make("div", undefined, { class: "upload-head" }, [icon(/\.zip$/i.test(this.file.name) ? "file-archive" : "file-text"), make("div", undefined, { class: "upload-name" }, [this.title, this.note]), this.buttons]);
    this.element = make("li", undefined, { class: "upload", "aria-label": this.file.name }, [head, this.bar, this.problem, this.more]);
    this.draw();
  }

  /** @param {State} state */
  become(state) {
    this.state = state;
    this.draw();
    summary();
  }

  draw() {
    this.element.dataset.state = this.state;
    this.bar.hidden = !["waiting", "sending", "paused", "looking"].includes(this.state);
    setText(this.note, this.words());
    const variants = { waiting: ["cancel"], sending: ["pause", "cancel"], paused: ["resume", "cancel"], looking: ["cancel"], ready: ["cancel"], saving: [], saved: ["open", "train"], failed: ["again", "cancel"] }[this.state];
    if (this.buttons.dataset.of === this.state) return;
    const hadFocus = this.buttons.contains(document.activeElement);
    this.buttons.dataset.of = this.state;
    this.buttons.replaceChildren(...variants.map(variant => this.button(variant)));
    if (hadFocus) (this.buttons.querySelector("button, a") ?? this.element.querySelector("input"))?.focus();
  }

  /** @param {string} variant */
  button(variant) {
    const of = { "aria-label": "" }, name = this.file.name;
    if (variant === "pause") return button("Pause", "pause", () => this.transfer.pause(), { ...of, "aria-label": `Pause ${name}` });
    if (variant === "resume") return button("Resume", "play", () => this.send(), { ...of, "aria-label": `Resume ${name}` });
    if (variant === "again") return button("Try again", "rotate-cw", () => this.send(), { ...of, "aria-label": `Try ${name} again` });
    if (variant === "open") return make("a", undefined, { class: "btn", "data-variant": "outline", "data-size": "sm", href: `/datasets/${this.made}`, "aria-label": `Open ${name}` }, ["Open", icon("arrow-right")]);
    if (variant === "train") return make("a", undefined, { class: "btn", "data-size": "sm", href: `/jobs/new?dataset=${this.made}`, "aria-label": `Train on ${name}` }, [icon("sparkles"), "Train on this"]);
    return button("", "x", () => void this.cancel(), { "data-variant": "ghost", "data-size": "icon-sm", "aria-label": `${this.state === "sending" ? "Cancel" : "Remove"} ${name}` });
  }

  words() {
    const size = bytes(this.file.size), sent = this.transfer.sent;
    if (this.state === "sending") {
      if (this.trouble) return `${this.trouble} Trying again…`;
      const seconds = (performance.now() - this.begun) / 1000, rate = (this.shownBytes() - this.already) / Math.max(seconds, 0.1);
      const left = seconds > 1 && rate > 0 ? ` · ${bytes(rate)}/s · ${duration((this.file.size - this.shownBytes()) / rate)} left` : "";
      return `${bytes(this.shownBytes())} of ${size}${left}`;
    }
    return { waiting: `${size} · waiting`, paused: `Paused at ${bytes(sent)} of ${size}`, looking: `${size} · sent; looking at it…`, ready: `${size} · not saved yet`, saving: "Saving…", saved: "Saved. It is being read in the background.", failed: size }[this.state];
  }

  shownBytes() {
    return Math.round(Number(this.bar.value) * this.file.size);
  }

  async send() {
    this.problem.hidden = true;
    this.trouble = "";
    this.begun = performance.now();
    this.already = -1;
    this.become("sending");
    const redraw = throttle(() => this.draw(), 200);
    try {
      await this.transfer.run(sent => {
        if (this.already < 0) this.already = sent;
        this.trouble = "";
        this.bar.value = this.file.size ? sent / this.file.size : 1;
        redraw();
      }, error => { this.trouble = error.message; redraw(); });
      await this.look();
    } catch (error) {
      this.failed(error);
    }
    next();
  }

  /** @param {any} error */
  failed(error) {
    if (error.name === "AbortError") {
      if (items.includes(this)) this.become("paused");
      return;
    }
    const unreachable = this.state === "sending" && !error.status;
    this.become(unreachable ? "paused" : "failed");
    showProblem(this.problem, unreachable ? { ...error, message: error.message, hint: "What has come is kept. Resume when the server is back." } : error);
  }

  async look() {
    this.become("looking");
    this.bar.removeAttribute("value");
    this.preview = remember(await this.transfer.preview(this.reading));
    this.bar.value = 1;
    this.become("ready");
    this.drawPreview();
    const found = findingsIn(this.preview);
    announce(`${this.file.name} can be saved: ${plural(this.preview.num_rows, "row")}, ${found}.`);
  }

  /** To be read in another way: look again; of several choices the last counts. @param {Record<string, unknown>} reading */
  read(reading) {
    this.reading = reading;
    this.looking ??= this.readLast().finally(() => { this.looking = null; });
  }

  async readLast() {
    this.found.setAttribute("aria-busy", "true");
    for (let reading = null; reading !== this.reading;) {
      reading = this.reading;
      try {
        this.preview = remember(await this.transfer.preview(reading));
        if (reading !== this.reading) continue;
        this.problem.hidden = true;
        this.isRefused = false;
        this.drawFound();
        this.drawControls();
        announce(`Read again: ${plural(this.preview.num_rows, "row")}, ${findingsIn(this.preview)}.`);
      } catch (error) {
        if (reading !== this.reading) continue;
        this.isRefused = true;
        showProblem(this.problem, error);
      }
    }
    this.found.removeAttribute("aria-busy");
  }

  /** What can be chosen of the file, then which column holds what; the focus stays where it was. */
  drawControls() {
    const p = this.preview, { shape: _, mapping: __, ...file } = this.reading;
    const focused = this.controls.contains(document.activeElement) ? /** @type {HTMLElement} */ (document.activeElement) : null;
    const option = focused?.closest("[data-option]"), name = /** @type {HTMLElement | null | undefined} */ (option)?.dataset.option, value = /** @type {any} */ (focused)?.value;
    this.controls.replaceChildren(
      readingControls(p, file, next => this.read(next.encoding !== file.encoding && Object.keys(next).every(key => key === "encoding" || /** @type {any} */ (next)[key] === /** @type {any} */ (file)[key]) ? { ...this.reading, ...next } : next)),
      mappingControls(shapes, p.columns, { shape: p.shape, mapping: p.mapping }, p.type, next => this.read({ ...file, ...next })),
    );
    if (!focused) return;
    const again = name && this.controls.querySelector(`[data-option="${name}"]`);
    const same = again instanceof HTMLFieldSetElement ? again.querySelector(`input[value="${CSS.escape(value)}"]`) : again;
    /** @type {HTMLElement | null} */ (same ?? this.controls.querySelector(`#${focused.id}`) ?? this.controls.querySelector("select"))?.focus();
  }

  drawPreview() {
    const id = `upload-${items.indexOf(this)}`, p = this.preview;
    this.found = make("div", undefined, { class: "stack" });
    this.drawFound();
    this.name = make("input", undefined, { class: "input", id: `${id}-name`, maxlength: "200", autocomplete: "off", value: this.file.name.replace(/(\.(gz|zst|csv|tsv|jsonl?|parquet|xlsx|txt|zip|conll))+$/i, "") });
    this.tags = make("input", undefined, { class: "input", id: `${id}-tags`, autocomplete: "off", placeholder: "support, english" });
    this.about = make("input", undefined, { class: "input", id: `${id}-about`, maxlength: "10000", autocomplete: "off", placeholder: "Optional" });
    const field = (/** @type {string} */ label, /** @type {any} */ input, whole = false) => make("div", undefined, { class: whole ? "field is-whole" : "field" }, [make("label", label, { for: input.id }), input]);
    const form = make("form", undefined, { class: "upload-form" }, [field("Name", this.name), field("Tags", this.tags), field("Description", this.about, true)]);
    const save = make("button", undefined, { class: "btn", type: "submit" }, [icon("check"), "Save dataset"]);
    form.append(make("div", undefined, { class: "row is-whole" }, [save]));
    form.addEventListener("submit", (/** @type {SubmitEvent} */ event) => { event.preventDefault(); void this.save(true); });
    this.controls = make("div");
    this.drawControls();
    const reading = make("details", undefined, { class: "reading" }, [make("summary", undefined, {}, ["How it is read", icon("chevron-down")]), this.controls]);
    if (!p.report.valid || p.report.findings.some((/** @type {any} */ one) => OF_READING.includes(one.code))) reading.setAttribute("open", "");
    this.more.replaceChildren(this.found, reading, form);
  }

  drawFound() {
    const p = this.preview, facts = make("dl", undefined, { class: "facts" });
    const fact = (/** @type {string} */ name, /** @type {string} */ text) => facts.append(make("div", undefined, {}, [make("dt", name), make("dd", text)]));
    fact("Format", p.format + (p.encoding && p.encoding !== "utf-8" ? ` (${p.encoding})` : ""));
    fact("Rows", p.whole ? number(p.num_rows) : `more than ${number(p.num_rows)}; the first are shown and checked`);
    if (p.layout.sheet && p.layout.sheets.length > 1) fact("Sheet", p.layout.sheet);
    fact("Columns", p.columns.length < p.layout.columns.length ? `${number(p.columns.length)} of ${number(p.layout.columns.length)}` : number(p.columns.length));
    fact("Read as", shapes[p.shape]?.words ?? p.shape);
    this.found.replaceChildren(facts, findings(p.report.findings), sample(p));
  }

  /** @param {boolean} alone whether to go to it when it is the only one */
  async save(alone) {
    if (this.state !== "ready") return;
    const tags = this.tags.value.split(",").map((/** @type {string} */ tag) => tag.trim()).filter(Boolean);
    this.become("saving");
    await this.looking;
    if (this.isRefused) return this.become("ready"); // what is wrong stands there already
    try {
      const made = await this.transfer.commit({ name: this.name.value.trim() || null, description: this.about.value, tags, ...this.reading });
      this.made = made.id;
      this.more.replaceChildren();
      this.problem.hidden = true;
      setText(this.title, made.name);
      this.become("saved");
      if (alone && items.length === 1) location.href = `/datasets/${made.id}`;
      else { toast(`“${made.name}” is saved.`, { href: `/datasets/${made.id}`, link: "Open it" }); document.body.dispatchEvent(new CustomEvent("tunesmith:datasets")); }
    } catch (error) {
      this.become("ready");
      showProblem(this.problem, error);
    }
  }

  async cancel() {
    items.splice(items.indexOf(this), 1);
    const following = /** @type {HTMLElement | null} */ (this.element.nextElementSibling ?? this.element.previousElementSibling);
    this.element.remove();
    (following?.querySelector("button, a") ?? $("files")).focus();
    summary();
    await this.transfer.cancel();
    next();
  }
}

/** @param {any} preview */
function findingsIn(preview) {
  const count = (/** @type {string} */ level) => preview.report.findings.filter((/** @type {any} */ one) => one.level === level).length;
  return [count("error") && plural(count("error"), "error"), count("warning") && plural(count("warning"), "warning")].filter(Boolean).join(", ") || "nothing wrong";
}

/** @param {any[]} found */
export function findings(found) {
  if (!found.length) return make("p", undefined, { class: "finding", "data-level": "good" }, [icon("circle-check"), make("span", "Nothing wrong was found.")]);
  const list = make("ul", undefined, { class: "findings" });
  for (const one of found) {
    const text = make("div", undefined, {}, [make("strong", one.message)]);
    const numbers = (/** @type {string} */ what, /** @type {number[]} */ list) => list.length && text.append(make("span", ` ${what} ${list.slice(0, 8).join(", ")}${list.length > 8 || one.count > list.length ? ", …" : ""}`, { class: "muted" }));
    if (one.code !== "ragged_lines" && one.code !== "bad_json") numbers("Rows", one.rows);
    numbers(one.rows.length && one.lines.length && one.code !== "ragged_lines" && one.code !== "bad_json" ? "· lines of the file" : "Lines", one.lines);
    if (one.hint) text.append(make("p", one.hint));
    list.append(make("li", undefined, { class: "finding", "data-level": one.level }, [icon(one.level === "error" ? "circle-alert" : one.level === "warning" ? "triangle-alert" : "info"), text]));
  }
  return list;
}

/** The first rows. @param {any} p */
function sample(p) {
  const talks = p.rows.slice(0, SHOWN_CHATS).map((/** @type {any} */ row) => messagesOf(row));
  if (talks.length && talks.every(Boolean)) return make("div", undefined, { class: "sample-chats" }, talks.map((/** @type {any} */ talk) => chat(talk)));
  if (p.columns.length > SHOWN_COLUMNS && p.rows.length) return make("div", undefined, { class: "sample-cells" }, [cells(p.rows[0], p.columns.slice(0, 40))]);
  const table = make("table", undefined, { class: "table" }, [make("thead", undefined, {}, [make("tr", undefined, {}, p.columns.map((/** @type {string} */ column) => make("th", column, { scope: "col" })))])]);
  const body = make("tbody");
  for (const row of p.rows.slice(0, SHOWN_ROWS)) body.append(make("tr", undefined, {}, p.columns.map((/** @type {string} */ column) => make("td", undefined, {}, [make("div", shown(row[column]), { class: "clamp" })]))));
  table.append(body);
  return make("div", undefined, { class: "table-wrap", tabindex: "0", role: "region", "aria-label": "First rows" }, [table]);
}

/** Send those that wait. */
function next() {
  const busy = items.filter(item => ["sending", "looking"].includes(item.state)).length;
  for (const item of items.filter(item => item.state === "waiting").slice(0, Math.max(0, AT_ONCE - busy))) void item.send();
}

function summary() {
  const ready = items.filter(item => item.state === "ready"), saved = items.filter(item => item.state === "saved");
  $("uploads-bar").hidden = items.length < 2;
  $("save-all").hidden = ready.length < 2;
  setText($("uploads-summary"), `${plural(items.length, "file")}: ${ready.length} ready to save, ${saved.length} saved`);
}

/** @param {Iterable<File>} files */
export function addFiles(files) {
  for (const file of files) {
    if (items.some(item => item.transfer.key === new Transfer(file).key && item.state !== "saved")) continue;
    const item = new Item(file);
    items.push(item);
    $("uploads").append(item.element);
    const refused = file.size === 0 ? { message: "The file is empty.", hint: "Choose a file with at least one row." } : file.size > maxBytes ? { message: `The file is larger than ${bytes(maxBytes)}.`, hint: "Split it, or raise TUNESMITH_MAX_UPLOAD_BYTES on the server." } : null;
    if (refused) item.failed({ ...refused, status: 422 });
  }
  summary();
  next();
}

/** Whether something would be lost by leaving. */
const atWork = () => items.some(item => ["waiting", "sending", "looking", "ready", "saving"].includes(item.state));

/** Files of a drop; folders hold no bytes of their own and are named. @param {DataTransfer} data */
export function filesOf(data) {
  const files = [];
  for (const one of data.items) {
    if (one.kind !== "file") continue;
    const file = one.getAsFile();
    if (one.webkitGetAsEntry?.()?.isDirectory) toastError(Object.assign(new Error(`“${file?.name}” is a folder.`), { hint: "Drop the files in it, or a ZIP of it." }));
    else if (file) files.push(file);
  }
  return files;
}

export function startUploads() {
  const place = $("uploader");
  shapes = Object.fromEntries(JSON.parse(place.dataset.shapes));
  maxBytes = Number(place.dataset.maxBytes);
  $("files").addEventListener("change", (/** @type {any} */ event) => { addFiles([...event.target.files]); event.target.value = ""; });
  $("save-all").addEventListener("click", async () => { for (const item of items.filter(item => item.state === "ready")) await item.save(false); });
  addEventListener("beforeunload", event => { if (atWork()) event.preventDefault(); });
}

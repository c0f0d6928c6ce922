// @ts-check
/**
 * A million rows in one view: only those in sight are in the page. Lines have one height, so the place of each is known;
 * beyond what a browser can scroll the scroll bar stands for more than its pixels.
 */
import { AllRows, NamedRows, SearchedRows } from "./dataset-source.js";
import { chat, isChat, label, media, messagesOf, shown } from "./dataset-row.js";
import { openRow } from "./dataset-dialog.js";
import { announce, debounce, make, setText } from "./dom.js";
import { toastError } from "./toast.js";
import { number, plural } from "./words.js";

const MOST_PIXELS = 15_000_000, OVERSCAN = 4, CUT_CHARS = 500, TILE_PX = 165;
/** Height of one line of each view, px. */
const LINE_PX = { table: 45, chat: 172, gallery: 190, sounds: 70 };
/** @typedef {import("./dataset-row.js").Data} Data */
/** @typedef {keyof typeof LINE_PX} View */

/** Where the last view was, for the one that takes its place. */
let lastIndex = 0;

export class Rows {
  /** @param {HTMLElement} place @param {Data} data @param {string[]} columns @param {number[] | null} numbers */
  constructor(place, data, columns, numbers) {
    this.place = place;
    this.data = data;
    this.columns = columns;
    this.numbers = numbers;
    this.address = `/datasets/${data.id}/preview?version=${data.version}`;
    const query = new URLSearchParams(location.search);
    /** @type {View[]} */
    this.views = isChat(data.shape) ? ["chat", "table"] : data.type === "image" || data.type === "video" ? ["gallery", "table"] : data.type === "audio" ? ["sounds", "table"] : ["table"];
    const wanted = /** @type {View} */ (query.get("view"));
    /** @type {View} */
    this.view = this.views.includes(wanted) ? wanted : this.views[0];
    this.active = numbers ? 0 : Math.max(0, Math.min(data.total - 1, query.has("at") ? Number(query.get("at")) - 1 || 0 : lastIndex));
    /** @type {Map<number, {element: HTMLElement, state: string}>} */
    this.drawn = new Map();
    /** @type {any} where rows come from */
    this.source = undefined;
    /** @type {string | undefined} what is searched for */
    this.text = undefined;
    this.perLine = 1;
    this.build(query.get("q") ?? "");
    this.setView(this.view, Boolean(query.get("at")) || lastIndex > 0);
    if (query.get("q")) this.search(query.get("q") ?? "");
    if (query.has("at") && !numbers) this.goTo(this.active + 1);
  }

  /** @param {string} text */
  build(text) {
    this.count = make("p", "", { class: "muted small rows-count", role: "status" });
    const find = make("input", undefined, { class: "input", type: "search", placeholder: "Search in rows", "aria-label": "Search in rows", maxlength: "200", autocomplete: "off", value: text });
    find.addEventListener("input", debounce(() => this.search(find.value.trim()), 300));
    const go = make("input", undefined, { class: "input go", type: "number", min: "1", max: String(this.data.total), placeholder: "Go to row", "aria-label": "Go to row" });
    const jump = () => { const to = Number(go.value); if (to >= 1) { this.goTo(Math.min(to, this.data.total)); go.value = ""; } };
    go.addEventListener("change", jump);
    this.switch = make("div", undefined, { class: "segments", role: "group", "aria-label": "View" });
    for (const view of this.views.length > 1 ? this.views : []) {
      const button = make("button", { table: "Table", chat: "Chat", gallery: "Gallery", sounds: "Sounds" }[view], { type: "button", "data-view": view });
      button.addEventListener("click", () => { this.setView(view, true); history.replaceState(null, "", withQuery("view", view === this.views[0] ? "" : view)); });
      this.switch.append(button);
    }
    this.head = make("div", undefined, { class: "rows-head", role: "row", "aria-rowindex": "1" });
    this.layer = make("div", undefined, { class: "rows-layer", role: "rowgroup" });
    this.space = make("div", undefined, { class: "rows-space", role: "presentation" }, [this.layer]);
    this.scroller = make("div", undefined, { class: "rows-view", role: "grid", "aria-label": "Rows", tabindex: "-1" }, [make("div", undefined, { role: "rowgroup", class: "rows-headgroup" }, [this.head]), this.space]);
    const tools = this.numbers ? [this.count, this.switch] : [find, go, this.count, this.switch];
    this.place.replaceChildren(make("div", undefined, { class: "toolbar rows-tools" }, tools), this.scroller);
    this.scroller.addEventListener("scroll", () => this.render(), { passive: true });
    this.scroller.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.pressed(event));
    this.scroller.addEventListener("click", (/** @type {MouseEvent} */ event) => this.clicked(event));
    new ResizeObserver(() => this.resized()).observe(this.scroller);
  }

  /** @param {View} view @param {boolean} stay keep the active row in sight */
  setView(view, stay) {
    this.view = view;
    for (const button of this.switch.children) button.setAttribute("aria-pressed", String(button.dataset.view === view));
    this.scroller.dataset.view = view;
    const titles = view === "table" ? ["", ...this.columns] : view === "chat" ? ["", "Conversation"] : view === "sounds" ? ["", "Sound", "Label", "File"] : ["Files"];
    const across = view === "table" ? `5rem repeat(${this.columns.length}, minmax(12rem, 1fr))` : view === "chat" ? "5rem minmax(0, 1fr)" : view === "sounds" ? "5rem minmax(14rem, 24rem) minmax(6rem, 14rem) minmax(8rem, 1fr)" : "minmax(0, 1fr)";
    this.scroller.style.setProperty("--across", across);
    this.head.replaceChildren(...titles.map((title, i) => make("div", i ? title : view === "gallery" ? title : "Row", { role: "columnheader", class: "cell" })));
    this.scroller.setAttribute("aria-colcount", String(titles.length));
    this.perLine = 1;
    this.drawAll();
    this.useSource(this.source ?? this.fresh());
    this.resized();
    if (stay) this.scrollTo(this.active);
  }

  /** Lists in cells must come whole: half of one cannot be drawn as a chat. */
  fresh() {
    const lists = ["messages", "conversations", "preference"].includes(this.data.shape);
    /** @type {Record<string, number>} */
    const query = lists ? {} : { max_chars: CUT_CHARS };
    const changed = (/** @type {any} */ error) => this.changed(error);
    if (this.numbers) return new NamedRows(this.address, this.numbers, query, changed);
    return this.text ? new SearchedRows(this.address, this.text, query, changed) : new AllRows(this.address, this.data.total, query, changed);
  }

  /** @param {any} source */
  useSource(source) {
    this.source = source;
    this.scroller.setAttribute("aria-rowcount", String(source.whole ? source.count + 1 : -1));
    this.render();
  }

  /** @param {string} text */
  search(text) {
    if (text === (this.text ?? "")) return;
    this.text = text;
    this.source?.stop();
    this.active = 0;
    this.scroller.scrollTop = 0;
    this.drawAll();
    this.useSource(this.fresh());
    history.replaceState(null, "", withQuery("q", text));
  }

  drawAll() {
    for (const { element } of this.drawn.values()) element.remove();
    this.drawn.clear();
  }

  /** @param {any} [error] */
  changed(error) {
    if (error) toastError(error);
    if (this.source.whole) this.scroller.setAttribute("aria-rowcount", String(this.source.count + 1));
    this.render();
  }

  resized() {
    const perLine = this.view === "gallery" ? Math.max(1, Math.floor(this.scroller.clientWidth / TILE_PX)) : 1;
    if (perLine !== this.perLine) { this.perLine = perLine; this.drawAll(); }
    this.render();
  }

  /** Heights, px: of a line, of all lines, of the scroll bar's way; and how many px one of the scroll bar's stands for. */
  measures() {
    const line = LINE_PX[this.view], full = Math.ceil(this.source.count / this.perLine) * line;
    const seen = Math.max(1, this.scroller.clientHeight - this.head.offsetHeight), space = Math.min(full, MOST_PIXELS);
    return { line, full, seen, space, scale: full > space ? (full - seen) / (space - seen) : 1 };
  }

  render() {
    if (!this.source) return;
    const { line, seen, space, scale } = this.measures();
    this.space.style.height = `${space}px`;
    const scrolled = this.scroller.scrollTop, top = scrolled * scale, lines = Math.ceil(this.source.count / this.perLine);
    const first = Math.max(0, Math.floor(top / line) - OVERSCAN), last = Math.min(lines, Math.ceil((top + seen) / line) + OVERSCAN);
    this.layer.style.transform = `translateY(${scrolled - (top - first * line)}px)`;
    this.source.want(first * this.perLine, last * this.perLine);
    const focused = this.layer.contains(document.activeElement);
    for (const [index, { element }] of this.drawn) if (index < first || index >= last) { element.remove(); this.drawn.delete(index); }
    for (let index = first; index < last; index++) this.drawLine(index, (index - first) * line);
    if (focused && !this.layer.contains(document.activeElement)) this.scroller.focus({ preventScroll: true });
    this.tell();
  }

  /** @param {number} index of the line @param {number} y px */
  drawLine(index, y) {
    const items = [...Array(this.perLine).keys()].map(i => index * this.perLine + i).filter(i => i < this.source.count);
    const state = items.map(i => this.source.get(i) ? "1" : "0").join("");
    let line = this.drawn.get(index);
    if (!line || line.state !== state) {
      const element = this.makeLine(index, items), held = line?.element.contains(document.activeElement);
      if (line) line.element.replaceWith(element);
      else this.layer.append(element);
      line = { element, state };
      this.drawn.set(index, line);
      this.setTabIndex(element);
      if (held) this.focusActive();
    }
    line.element.style.top = `${y}px`;
    this.setTabIndex(line.element);
  }

  /** One row is reached by Tab: the active one. @param {HTMLElement} line */
  setTabIndex(line) {
    for (const one of /** @type {HTMLElement[]} */ ([line, ...line.querySelectorAll("[data-index]")])) if (one.dataset.index) one.tabIndex = Number(one.dataset.index) === this.active ? 0 : -1;
  }

  /** @param {number} index @param {number[]} items @returns {HTMLElement} */
  makeLine(index, items) {
    const line = make("div", undefined, { role: "row", class: "rows-line", "aria-rowindex": String(index + 2) });
    line.style.height = `${LINE_PX[this.view]}px`;
    if (this.view === "gallery") {
      line.append(...items.map(i => this.tile(i)));
      line.style.gridTemplateColumns = `repeat(${this.perLine}, minmax(0, 1fr))`;
      return line;
    }
    line.dataset.index = String(items[0]);
    const found = this.source.get(items[0]);
    line.append(make("div", found ? number(found.number) : "", { role: "gridcell", class: "cell row-number" }));
    if (!found) {
      line.append(make("div", undefined, { role: "gridcell", class: "cell" }, [make("span", undefined, { class: "row-waits" })]));
      return line;
    }
    line.append(...this.cellsOf(found.row));
    return line;
  }

  /** @param {any} row @returns {HTMLElement[]} */
  cellsOf(row) {
    const cell = (/** @type {Node | string} */ inside, kind = "") => make("div", undefined, { role: "gridcell", class: `cell ${kind}` }, [inside]);
    if (this.view === "sounds") return [cell(media(this.data, row, false)), cell(label(this.data, row)), cell(make("span", shown(row.file_name), { class: "muted small clip" }))];
    const talk = this.view === "chat" ? messagesOf(row) : null;
    if (this.view === "chat") return [cell(talk ? chat(talk.slice(0, 6)) : make("span", "This row is no conversation. Open it to see its cells.", { class: "muted" }), "chat-cell")];
    return this.columns.map(column => {
      const text = shown(row[column]);
      return cell(make("span", text || "empty", { class: text ? "two-lines" : "muted small" }));
    });
  }

  /** @param {number} index */
  tile(index) {
    const found = this.source.get(index);
    const tile = make("div", undefined, { role: "gridcell", class: "tile", "data-index": String(index) });
    if (!found) return tile;
    const name = label(this.data, found.row) || shown(found.row.file_name);
    tile.append(make("div", undefined, { class: "tile-media" }, [media(this.data, found.row, true)]), make("span", name, { class: "clip small" }));
    tile.setAttribute("aria-label", `Row ${found.number}, ${name}`);
    return tile;
  }

  tell() {
    const { source } = this, all = `${plural(this.data.total, "row")}`;
    const found = source.whole ? plural(source.count, "row") : `${number(source.count)} and more`;
    setText(this.count, this.text || this.numbers ? (source.busy && !source.count ? "Searching…" : `${found} of ${number(this.data.total)}`) : all);
    this.scroller.classList.toggle("is-empty", source.whole && source.count === 0);
  }

  /** The index as a place. @param {number} index */
  scrollTo(index) {
    const { line, seen, scale } = this.measures(), y = Math.floor(index / this.perLine) * line, top = this.scroller.scrollTop * scale;
    if (y < top) this.scroller.scrollTop = y / scale;
    else if (y + line > top + seen) this.scroller.scrollTop = (y + line - seen) / scale;
    this.render();
  }

  /** @param {number} index @param {boolean} [focus] */
  setActive(index, focus = true) {
    this.active = Math.max(0, Math.min(this.source.count - 1, index));
    if (!this.text && !this.numbers) lastIndex = this.active;
    this.scrollTo(this.active);
    if (focus) this.focusActive();
  }

  /** A row by its number, wherever it is. @param {number} to from 1 */
  goTo(to) {
    if (this.text) { this.search(""); /** @type {any} */ (this.place.querySelector("input[type=search]")).value = ""; }
    this.active = to - 1;
    const { line, seen, scale } = this.measures();
    this.scroller.scrollTop = Math.max(0, Math.floor(this.active / this.perLine) * line - seen / 3) / scale;
    this.render();
    this.setActive(this.active);
    announce(`Row ${to}`);
  }

  focusActive() {
    this.layer.querySelector(`[data-index="${this.active}"]`)?.focus({ preventScroll: true });
  }

  /** @param {KeyboardEvent} event */
  pressed(event) {
    if (/** @type {Element} */ (event.target).closest("audio, video, a, input")) return;
    const { line, seen } = this.measures(), page = Math.max(1, Math.floor(seen / line)) * this.perLine;
    /** @type {Record<string, number>} */
    const to = { ArrowDown: this.active + this.perLine, ArrowUp: this.active - this.perLine, PageDown: this.active + page, PageUp: this.active - page, Home: 0, End: this.source.count - 1 };
    if (this.perLine > 1) Object.assign(to, { ArrowRight: this.active + 1, ArrowLeft: this.active - 1 });
    if (event.key in to && !event.altKey) { event.preventDefault(); this.setActive(to[event.key]); }
    else if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.open(this.active); }
  }

  /** @param {MouseEvent} event */
  clicked(event) {
    const target = /** @type {Element} */ (event.target);
    const item = /** @type {HTMLElement | null} */ (target.closest("[data-index]"));
    if (!item || target.closest("audio, video, a") || getSelection()?.toString()) return;
    this.active = Number(item.dataset.index);
    this.render();
    this.focusActive();
    this.open(this.active);
  }

  /** @param {number} index */
  open(index) {
    const found = this.source.get(index);
    if (!found) return;
    const step = (/** @type {number} */ by) => { this.setActive(this.active + by, false); return this.source.get(this.active)?.number ?? null; };
    openRow(this.data, this.columns, found.number, step, () => this.focusActive());
  }
}

/** This address with one part of its query changed. @param {string} key @param {string} value */
function withQuery(key, value) {
  const query = new URLSearchParams(location.search);
  if (value) query.set(key, value);
  else query.delete(key);
  query.delete("at");
  const text = query.toString();
  return location.pathname + (text ? `?${text}` : "");
}


// @ts-check
/**
 * A job's log of any size: a few pieces of it are on the page, more come as one scrolls. It follows the end while that is in sight,
 * and a search jumps to its matches wherever they are. Lines that the job wrote of itself have a time and a level, by which the
 * server filters.
 */
import { call } from "../api.js";
import { $, debounce, make, throttle } from "../dom.js";
import { toastError } from "../toast.js";
import { bytes, exact, number, timeOfDay } from "../words.js";

const PIECE = 64 * 1024, MOST_PIECES = 10, MOST_LOOKS = 20, NEAR_PX = 600, LOOK_MS = 2000, MOST_MATCHES = 2000, END = 2 ** 52;
/** Colours and other orders to a terminal. */
const ORDERS = /\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07/g; // eslint-disable-line no-control-regex
/** Time, level and sentence of a line that the job wrote of itself. */
const LINE = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) (INFO|WARNING|ERROR) +(.*)$/;

/** @typedef {{offset: number, end: number, text: string, element: HTMLElement}} Piece */

const view = $("log"), url = `/jobs/${$("job").dataset.job}/logs`;
/** @type {Piece[]} */
let pieces = [];
let size = 0, busy = false;
let wanted = "", /** @type {{offset: number}[]} */ matches = [], at = -1, isMore = false;

/** What a terminal would show. @param {string} text */
const plain = text => text.replace(ORDERS, "").split("\n").map(line => line.slice(line.replace(/\r+$/, "").lastIndexOf("\r") + 1)).join("\n");

/** Where what is looked for begins and ends in a text. @param {string} text @returns {[number, number][]} */
function placesIn(text) {
  if (!wanted) return [];
  const lower = text.toLowerCase(), word = wanted.toLowerCase();
  /** @type {[number, number][]} */
  const places = [];
  for (let i = lower.indexOf(word); i >= 0; i = lower.indexOf(word, i + word.length)) places.push([i, i + word.length]);
  return places;
}

/** Text with these places marked. @param {string} text @param {[number, number][]} [places] @returns {(string | HTMLElement)[]} */
function marked(text, places = placesIn(text)) {
  const parts = [];
  let from = 0;
  for (const [start, end] of places) {
    parts.push(text.slice(from, start), make("mark", text.slice(start, end)));
    from = end;
  }
  return [...parts, text.slice(from)];
}

/** A line that the job wrote of itself; its time is marked as a whole, as the log holds it in UTC. @param {string} line @param {string[]} found what `LINE` finds in it */
function drawLine(line, [, time, level, sentence]) {
  const places = placesIn(line), moment = new Date(time), clock = timeOfDay(moment.getTime() / 1000);
  const within = (/** @type {number} */ start, /** @type {number} */ length) => places.map(([from, to]) => /** @type {[number, number]} */ ([Math.max(from - start, 0), Math.min(to - start, length)])).filter(([from, to]) => from < to);
  return make("span", undefined, { class: "log-line", "data-level": level.toLowerCase() }, [
    make("span", undefined, { class: "log-time", title: exact(moment) }, [within(0, time.length).length ? make("mark", clock) : clock]), " ",
    make("span", undefined, { class: "log-level" }, marked(level, within(time.length + 1, level.length))), " ",
    ...marked(sentence, within(line.length - sentence.length, sentence.length))]);
}

/** @param {Piece} piece */
function draw(piece) {
  /** @type {(string | HTMLElement)[]} */
  const parts = [];
  let printed = "";
  const flush = () => { if (printed) parts.push(...marked(printed)); printed = ""; };
  for (const line of plain(piece.text).split(/(?<=\n)/)) {
    const whole = line.trimEnd(), found = LINE.exec(whole);
    if (!found) { printed += line; continue; }
    flush();
    parts.push(drawLine(whole, found), "\n");
  }
  flush();
  piece.element.replaceChildren(...parts);
}

/** @param {{offset: number, next_offset: number, text: string, size_bytes: number}} chunk @returns {Piece} */
function pieceOf(chunk) {
  size = chunk.size_bytes;
  const piece = { offset: chunk.offset, end: chunk.next_offset, text: chunk.text, element: make("pre") };
  draw(piece);
  return piece;
}

/** @param {Record<string, number | boolean>} query */
const ask = query => call(`${url}?${new URLSearchParams(Object.entries({ limit: PIECE, ...filter(), ...query }).map(([key, value]) => [key, String(value)]))}`);

/** What the level asks for. @returns {Record<string, string>} */
const filter = () => $("log-level").value ? { level: $("log-level").value } : {};

/** A part of the log; where nothing of it passes the filter, what comes further on. @param {Record<string, number | boolean>} query */
async function read(query) {
  const first = await ask(query);
  let chunk = first;
  for (let looks = 1; !chunk.text && $("log-level").value && looks < MOST_LOOKS; looks++) {
    if ("before" in query ? chunk.offset === 0 : chunk.next_offset >= chunk.size_bytes) break;
    chunk = await ask("before" in query ? { before: chunk.offset } : { ...query, offset: chunk.next_offset });
  }
  return "before" in query ? { ...chunk, next_offset: first.next_offset } : { ...chunk, offset: first.offset };
}

function told() {
  const first = pieces[0], last = pieces[pieces.length - 1];
  $("log-note")?.remove();
  const isEmpty = !pieces.some(piece => piece.text);
  if (isEmpty) view.prepend(make("p", size ? "No line of this level." : "Nothing has been logged yet.", { class: "muted", id: "log-note" }));
  $("log-place").textContent = !size ? "" : first.offset === 0 && last.end >= size ? bytes(size) : `${bytes(first.offset)} to ${bytes(last.end)} of ${bytes(size)}`;
}

const isAtEnd = () => (pieces[pieces.length - 1]?.end ?? 0) >= size;
const toEnd = () => { view.scrollTop = view.scrollHeight; };

/** One thing at a time. @param {() => Promise<void>} work */
async function alone(work) {
  if (busy) return;
  busy = true;
  try { await work(); } finally { busy = false; }
}

/** @param {Piece[]} these in the place of all that is there */
function show(these) {
  pieces = these;
  view.replaceChildren(...these.map(piece => piece.element));
  told();
}

async function showEnd() {
  show([pieceOf(await read({ before: END }))]);
  toEnd();
}

async function before() {
  const first = pieces[0];
  if (!first || first.offset === 0) return;
  const piece = pieceOf(await read({ before: first.offset })), tall = view.scrollHeight;
  pieces.unshift(piece);
  view.prepend(piece.element);
  view.scrollTop += view.scrollHeight - tall;
  while (pieces.length > MOST_PIECES) pieces.pop()?.element.remove();
  told();
}

/** What follows; a line that was not ended goes on where it is. */
async function after() {
  const last = pieces[pieces.length - 1];
  const chunk = await read({ offset: last?.end ?? 0, whole_lines: true });
  size = chunk.size_bytes;
  if (!chunk.text) {
    if (last) last.end = Math.max(last.end, chunk.next_offset);
    return;
  }
  if (last && !last.text.endsWith("\n")) {
    last.text += chunk.text;
    last.end = chunk.next_offset;
    draw(last);
  } else {
    const piece = pieceOf(chunk);
    pieces.push(piece);
    view.append(piece.element);
  }
  while (pieces.length > MOST_PIECES) {
    const tall = view.scrollHeight;
    pieces.shift()?.element.remove();
    view.scrollTop -= tall - view.scrollHeight;
  }
  told();
}

const follow = throttle(() => void alone(async () => {
  const follows = $("log-follow").checked;
  if (!follows && !isAtEnd()) return;
  if (follows && pieces.length && size - pieces[pieces.length - 1].end > 4 * PIECE) await showEnd();
  await after();
  if (follows) toEnd();
}).catch(() => { /* the server is away; it is asked again */ }), 400);

function scrolled() {
  const left = view.scrollHeight - view.scrollTop - view.clientHeight;
  if ($("log-follow").checked && left > 80) $("log-follow").checked = false;
  if (view.scrollTop < NEAR_PX) void alone(before).catch(toastError);
  else if (left < NEAR_PX && !isAtEnd()) void alone(after).catch(toastError);
}

/** The log from a line on, with what is before it. @param {number} offset */
async function jump(offset) {
  $("log-follow").checked = false;
  const [earlier, later] = await Promise.all([offset ? read({ before: offset }) : null, read({ offset, whole_lines: true })]);
  const piece = pieceOf(later);
  show([...(earlier?.text ? [pieceOf(earlier)] : []), piece]);
  const mark = piece.element.querySelector("mark");
  mark?.classList.add("is-here");
  if (mark) mark.scrollIntoView({ block: "center" });
  else view.scrollTop = piece.element.offsetTop - view.offsetTop;
}

function showCount() {
  const count = `${number(matches.length)}${isMore ? "+" : ""}`;
  $("log-found").textContent = !wanted ? "" : matches.length ? at < 0 ? count : `${number(at + 1)} of ${count}` : "No match";
  $("log-next").disabled = $("log-previous").disabled = !matches.length;
}

/** @param {number} step */
async function go(step) {
  if (!matches.length) return;
  at = (at + step + matches.length) % matches.length;
  showCount();
  await alone(() => jump(matches[at].offset)).catch(toastError);
}

async function search() {
  const text = $("log-text").value;
  wanted = text;
  matches = [];
  at = -1;
  isMore = false;
  pieces.forEach(draw);
  if (text) {
    $("log-found").textContent = "Searching …";
    for (let offset = /** @type {number | null} */ (0); offset !== null && matches.length < MOST_MATCHES;) {
      const level = $("log-level").value;
      const found = await call(`${url}/search?${new URLSearchParams({ limit: "500", offset: String(offset), q: text, ...filter() })}`);
      if (wanted !== text || level !== $("log-level").value) return;
      matches.push(...found.matches);
      offset = found.next_offset;
      isMore = offset !== null;
    }
  }
  showCount();
  if (matches.length) await go(1);
}

function start() {
  const wrap = $("log-wrap");
  const wrapped = () => view.classList.toggle("is-wrapped", wrap.checked);
  wrapped();
  wrap.addEventListener("change", wrapped);
  view.addEventListener("scroll", throttle(scrolled, 80));
  $("log-level").addEventListener("change", () => void alone(showEnd).then(() => wanted ? search() : undefined).catch(toastError));
  $("log-follow").addEventListener("change", () => { if ($("log-follow").checked) void alone(showEnd).catch(toastError); });
  $("log-top").addEventListener("click", () => void alone(() => jump(0)).catch(toastError));
  $("log-text").addEventListener("input", debounce(() => void search().catch(toastError), 300));
  $("log-find").addEventListener("submit", (/** @type {Event} */ event) => { event.preventDefault(); void (wanted === $("log-text").value && matches.length ? go(1) : search().catch(toastError)); });
  $("log-text").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => { if (event.key === "Enter" && event.shiftKey) { event.preventDefault(); void go(-1); } });
  $("log-next").addEventListener("click", () => void go(1));
  $("log-previous").addEventListener("click", () => void go(-1));
  document.body.addEventListener("tunesmith:job", (/** @type {any} */ { detail }) => { if (detail.job_id === Number($("job").dataset.job)) follow(); });
  document.body.addEventListener("tunesmith:back", follow);
  setInterval(() => { if (!document.hidden && $("job-now").dataset.status === "running") follow(); }, LOOK_MS);
  void alone(showEnd).catch(error => { $("log-note").textContent = error.message; });
}

start();

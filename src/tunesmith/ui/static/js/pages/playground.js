// @ts-check
/**
 * Up to three models side by side: one message to all, each with a conversation of its own.
 * Models and settings are in the address; what was said is kept for this tab, so that a reload loses nothing.
 */
import { call, post, remove, stream } from "../api.js";
import { $, announce, icon, make, setText, showProblem, sure } from "../dom.js";
import { toastError } from "../toast.js";
import { duration, number } from "../words.js";

const KEPT = "tunesmith.playground", MOST = Number($("play")?.dataset.most ?? 0);

/** @typedef {{role: string, content: string, rating?: number, verdict?: string, note?: string, pace?: string, sampling?: Record<string, any>}} Said */

/** @type {Column[]} */
let columns = [];
let shown = 0, made = 0, filled = ""; // the last: what a question of the data put into the system prompt

/** Text with fenced code set apart; never as markup. @param {HTMLElement} place @param {string} text */
function showText(place, text) {
  const parts = text.split(/^```[^\n]*\n?/m);
  if (parts.length < 2) return setText(place, text);
  place.replaceChildren(...parts.map((part, at) => at % 2 ? make("pre", part.replace(/\n$/, ""), { tabindex: "0" }) : document.createTextNode(part)));
}

/** @param {string} name of an icon @param {string} label @param {Record<string, string>} [attributes] */
const iconButton = (name, label, attributes = {}) =>
  make("button", undefined, { type: "button", class: "btn", "data-variant": "ghost", "data-size": "icon-sm", "aria-label": label, title: label, ...attributes }, [icon(name)]);

/** What the form of settings says, without what is empty. @returns {{system: string, sampling: Record<string, any>}} */
function settings() {
  /** @type {Record<string, any>} */
  const sampling = {};
  for (const field of $("settings").elements) {
    if (!field.name || field.name === "system" || field.value.trim() === "") continue;
    if (field.name === "stop") sampling.stop = field.value.split(",").map((/** @type {string} */ word) => word.trim()).filter(Boolean).slice(0, 16);
    else if (field.validity.valid) sampling[field.name] = Number(field.value);
  }
  return { system: $("system").value.trim(), sampling };
}

/** One model and what was said with it. */
class Column {
  /** @param {string} name */
  constructor(name) {
    this.id = `column-${++made}`;
    /** @type {Said[]} */
    this.said = [];
    /** @type {AbortController | null} */
    this.asking = null;
    this.element = /** @type {HTMLElement} */ ($("column-template").content.firstElementChild.cloneNode(true));
    this.element.id = this.id;
    this.select = /** @type {HTMLSelectElement} */ (this.find("select"));
    this.turns = this.find(".turns");
    this.start = this.find(".play-start");
    this.find(".take-out").addEventListener("click", () => takeOut(this));
    this.select.addEventListener("change", () => { this.stop(); this.clear(); this.name = this.select.value; changed(); });
    for (const question of /** @type {NodeListOf<HTMLElement>} */ (this.element.querySelectorAll("[data-question]"))) {
      question.addEventListener("click", () => askOf(question));
    }
    this.name = name;
  }

  /** @param {string} selector @returns {HTMLElement} */
  find(selector) { return /** @type {HTMLElement} */ (this.element.querySelector(selector)); }

  get name() { return this.select.value; }

  set name(name) {
    this.select.value = name;
    this.select.setAttribute("aria-label", `Model: ${this.title}`);
    this.element.setAttribute("aria-label", this.title);
    this.turns.setAttribute("aria-label", `Conversation with ${this.title}`);
    this.turns.setAttribute("role", "log");
    this.turns.setAttribute("aria-live", "off"); // the end of an answer is announced, not each of its words
    this.find(".take-out").setAttribute("aria-label", `Take out ${this.title}`);
    const about = this.find(".about");
    about.setAttribute("href", `/models/${encodeURI(name)}`);
    about.setAttribute("aria-label", `About ${this.title}`);
  }

  get title() { return this.select.selectedOptions[0]?.textContent ?? this.name; }

  clear() {
    this.said = [];
    this.turns.replaceChildren(this.start);
  }

  stop() { this.asking?.abort(); }

  /** @param {HTMLElement} turn */
  add(turn) {
    this.start.remove();
    this.turns.append(turn);
    this.turns.scrollTop = this.turns.scrollHeight;
  }

  /** @param {string} text */
  async ask(text) {
    this.said.push({ role: "user", content: text });
    this.add(make("div", text, { class: "turn turn-user" }));
    await this.answer();
  }

  /** Get an answer to what was said last. */
  async answer() {
    const { system, sampling } = settings();
    const messages = this.said.map(({ role, content }) => ({ role, content }));
    if (system) messages.unshift({ role: "system", content: system });
    const text = make("div", undefined, { class: "answer-text" }), foot = make("div", undefined, { class: "answer-foot" });
    const turn = make("article", undefined, { class: "turn turn-answer", "aria-busy": "true", "aria-label": `Answer of ${this.title}` }, [text, foot]);
    this.add(turn);
    /** @type {Said} */
    const answer = { role: "assistant", content: "", sampling: system ? { ...sampling, system } : sampling };
    const asking = this.asking = new AbortController();
    buttons();
    try {
      await this.receive(answer, { messages, ...sampling }, text, foot, asking.signal);
    } catch (error) {
      if (asking.signal.aborted) answer.pace = "stopped";
      else showProblem(foot, error);
      if (!asking.signal.aborted) announce(`${this.title}: ${/** @type {any} */ (error).message}`);
    }
    if (this.asking === asking) this.asking = null;
    turn.removeAttribute("aria-busy");
    if (turn.isConnected) this.finish(answer, messages, turn, foot);
    buttons();
  }

  /** @param {Said} answer @param {any} body @param {HTMLElement} place @param {HTMLElement} foot @param {AbortSignal} signal */
  async receive(answer, body, place, foot, signal) {
    const began = performance.now();
    let drawing = 0, doing = "Waiting for its turn";
    const bar = make("progress", undefined, { "aria-label": `${this.title} is not ready yet` }), clock = make("span", undefined, { class: "num" });
    foot.replaceChildren(clock, bar);
    const tick = () => { if (doing) setText(clock, `${doing}: ${duration((performance.now() - began) / 1000)}`); };
    const ticking = setInterval(tick, 1000);
    tick();
    const draw = () => {
      drawing = 0;
      const near = this.turns.scrollHeight - this.turns.scrollTop - this.turns.clientHeight < 90;
      showText(place, answer.content);
      if (near) this.turns.scrollTop = this.turns.scrollHeight;
    };
    try {
      for await (const { kind, data } of stream("/models/chat", { model: this.name, stream: true, ...body }, signal)) {
        if (kind === "status") {
          doing = "Loading the model";
          tick();
        } else if (kind === "error") throw data;
        else {
          const choice = data.choices[0];
          answer.content += choice.delta.content ?? "";
          if (choice.delta.content) {
            doing = "";
            setText(foot, `${duration((performance.now() - began) / 1000)}`);
          }
          if (data.timings) answer.pace = pace(data, choice.finish_reason);
          drawing ||= requestAnimationFrame(draw);
        }
      }
    } finally {
      clearInterval(ticking);
    }
    cancelAnimationFrame(drawing);
    draw();
    announce(`${this.title} has answered.`);
  }

  /** @param {Said} answer @param {any[]} messages what came before @param {HTMLElement} turn @param {HTMLElement} foot */
  finish(answer, messages, turn, foot) {
    if (!answer.content && !answer.pace) return void this.offerAgain(foot); // it failed: its problem stays to be read
    if (foot.classList.contains("problem")) foot = turn.appendChild(make("div", undefined, { class: "answer-foot" }));
    this.said.push(answer);
    keep();
    const again = iconButton("refresh-cw", "Answer again"), copy = iconButton("copy", "Copy the answer", { "data-copy": answer.content });
    again.addEventListener("click", () => this.again(answer));
    foot.replaceChildren(make("span", answer.pace ?? "", { class: "pace" }), ...thumbs(this, answer, messages, turn), copy, again);
  }

  /** @param {HTMLElement} foot */
  offerAgain(foot) {
    const again = make("button", "Try again", { type: "button", class: "btn", "data-variant": "outline", "data-size": "sm" });
    again.addEventListener("click", () => { foot.closest(".turn")?.remove(); void this.answer(); });
    foot.append(again);
  }

  /** Take back an answer and all after it, and ask anew. @param {Said} answer */
  again(answer) {
    this.stop();
    const before = this.said.slice(0, this.said.indexOf(answer));
    this.show(before);
    void this.answer();
  }

  /** Draw what was said. @param {Said[]} said */
  show(said) {
    this.clear();
    for (const one of said) {
      if (one.role === "user") {
        this.said.push(one);
        this.add(make("div", one.content, { class: "turn turn-user" }));
        continue;
      }
      const text = make("div", undefined, { class: "answer-text" }), foot = make("div", undefined, { class: "answer-foot" });
      const turn = make("article", undefined, { class: "turn turn-answer", "aria-label": `Answer of ${this.title}` }, [text, foot]);
      showText(text, one.content);
      this.add(turn);
      this.finish(one, this.said.map(({ role, content }) => ({ role, content })), turn, foot);
    }
  }
}

/** @param {any} data the last event @param {string} reason */
function pace({ timings, usage }, reason) {
  const parts = [`${number(usage.completion_tokens)} tokens`];
  if (timings.tokens_per_s) parts.push(`${timings.tokens_per_s.toFixed(1)} tokens/s`);
  if (timings.time_to_first_token_s != null) parts.push(`first after ${duration(timings.time_to_first_token_s)}`);
  if (reason === "length") parts.push("cut at the most tokens");
  return parts.join(" · ");
}

/** Two thumbs; a rating is kept by the server as human evaluation. @param {Column} column @param {Said} answer @param {any[]} messages @param {HTMLElement} turn */
function thumbs(column, answer, messages, turn) {
  const both = [["up", "thumbs-up", "Good answer"], ["down", "thumbs-down", "Bad answer"]].map(([verdict, name, label]) => {
    const button = iconButton(name, label, { "data-verdict": verdict });
    button.addEventListener("click", () => void rate(verdict));
    return button;
  });
  const draw = () => {
    for (const button of both) button.setAttribute("aria-pressed", String(answer.verdict === button.dataset.verdict));
    turn.querySelector(".answer-note")?.remove();
    if (answer.verdict) turn.append(noteForm(answer, column));
  };
  /** @param {string} verdict */
  async function rate(verdict) {
    try {
      if (answer.verdict === verdict) {
        await remove(`/ratings/${answer.rating}`);
        answer.rating = answer.verdict = answer.note = undefined;
      } else if (answer.rating) {
        await call(`/ratings/${answer.rating}`, { method: "PATCH", json: { verdict } });
        answer.verdict = verdict;
      } else {
        const { sampling = {}, content } = answer;
        answer.rating = (await post("/ratings/", { model: column.name, messages, answer: content, verdict, sampling })).id;
        answer.verdict = verdict;
      }
      announce(answer.verdict ? `Rated: ${answer.verdict}` : "The rating is taken back.");
    } catch (error) {
      if (/** @type {any} */ (error).status === 404) answer.rating = answer.verdict = undefined; // deleted elsewhere
      toastError(error);
    }
    draw();
    keep();
  }
  if (answer.verdict) queueMicrotask(draw);
  else for (const button of both) button.setAttribute("aria-pressed", "false");
  return both;
}

/** Why it is good or bad; kept with the rating. @param {Said} answer @param {Column} column */
function noteForm(answer, column) {
  const field = make("input", undefined, { class: "input", maxlength: "5000", placeholder: "Why? (optional)", "aria-label": `Why this answer of ${column.title} is rated so` });
  const button = make("button", "Keep", { class: "btn", "data-variant": "outline", "data-size": "sm" });
  const form = make("form", undefined, { class: "answer-note" }, [field, button]);
  field.addEventListener("input", () => setText(button, "Keep"));
  field.value = answer.note ?? "";
  form.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    call(`/ratings/${answer.rating}`, { method: "PATCH", json: { note: field.value } }).then(() => { answer.note = field.value; keep(); setText(button, "Kept"); announce("The note is kept."); }, toastError);
  });
  return form;
}

// -- columns ------------------------------------------------------------------------------------------------------------

/** @param {string} name */
function addColumn(name) {
  const column = new Column(name);
  if (!column.name) return; // no such model any more
  columns.push(column);
  $("columns").append(column.element);
  shown = columns.length - 1;
  changed();
}

/** @param {Column} column */
function takeOut(column) {
  column.stop();
  column.element.remove();
  columns = columns.filter(one => one !== column);
  shown = Math.max(0, Math.min(shown, columns.length - 1));
  changed();
  (columns[shown]?.select ?? $("add-column")).focus();
}

/** @param {number} index */
function showColumn(index) {
  shown = index;
  columns.forEach((column, at) => column.element.toggleAttribute("data-shown", at === shown));
  for (const [at, tab] of [...$("column-tabs").children].entries()) {
    tab.setAttribute("aria-selected", String(at === shown));
    tab.setAttribute("tabindex", at === shown ? "0" : "-1");
  }
}

function drawTabs() {
  $("column-tabs").replaceChildren(...columns.map((column, at) => {
    const tab = make("button", undefined, { class: "btn", "data-variant": "outline", "data-size": "sm", type: "button", role: "tab", "aria-controls": column.id, title: column.title }, [make("span", column.title)]);
    tab.addEventListener("click", () => showColumn(at));
    tab.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      showColumn((at + step + columns.length) % columns.length);
      /** @type {HTMLElement} */ ($("column-tabs").children[shown]).focus();
    });
    return tab;
  }));
}

/** Models or settings are others now: the address says so. */
function changed() {
  const query = new URLSearchParams(columns.map(column => ["with", column.name])), { questions } = $("play").dataset;
  if (questions) query.set("questions", questions);
  for (const field of $("settings").elements) {
    const same = field.dataset.type === "number" ? Number(field.value) === Number(field.defaultValue) : field.value === field.defaultValue;
    if (field.name && field.value.trim() !== "" && !same) query.set(field.name, field.value);
  }
  history.replaceState(null, "", `?${query}`);
  showDeploy(query);
  for (const column of columns) column.find(".take-out").hidden = columns.length < 2;
  drawTabs();
  showColumn(shown);
  buttons();
  keep();
}

/** Deploying carries the settings over. @param {URLSearchParams} query what the address says */
function showDeploy(query) {
  const link = $("deploy"), carried = new URLSearchParams(query);
  if (!link || !columns.length) return;
  carried.delete("with");
  carried.set("model", columns[0].name);
  link.href = `/deployments/new?${carried}`;
}

function buttons() {
  const busy = columns.some(column => column.asking);
  $("send").hidden = busy;
  $("stop").hidden = !busy;
  $("add-column").disabled = columns.length >= MOST;
}

// -- kept for this tab --------------------------------------------------------------------------------------------------

function keep() {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(columns.map(({ name, said }) => ({ name, said }))));
  } catch { /* forbidden or full: a reload starts anew */ }
}

/** @returns {{name: string, said: Said[]}[]} */
function kept() {
  try { return JSON.parse(sessionStorage.getItem(KEPT) ?? "[]"); } catch { return []; }
}

// -- the page -----------------------------------------------------------------------------------------------------------

function readAddress() {
  const query = new URLSearchParams(location.search);
  for (const field of $("settings").elements) if (field.name && query.has(field.name)) field.value = query.get(field.name);
  drawOutputs();
  openSettings(innerWidth > 1000 && [...query.keys()].some(key => key !== "with" && key !== "questions"));
}

function drawOutputs() {
  for (const output of $("settings").querySelectorAll("output")) setText(output, $(output.htmlFor.value).value);
}

/** @param {boolean} open */
function openSettings(open) {
  $("sampling").hidden = !open;
  $("show-settings").setAttribute("aria-expanded", String(open));
}

/** Ask every model a question of the page; one from the data may have turns before it. @param {HTMLElement} question */
function askOf(question) {
  /** @type {{role: string, content: string}[]} */
  const turns = JSON.parse(question.dataset.turns ?? "[]");
  if (turns.length) {
    if (columns.some(column => column.asking)) return;
    const first = turns[0].role === "system" ? 1 : 0, system = first ? turns[0].content.trim() : "", typed = $("system").value.trim();
    if (system !== typed && (system || typed === filled)) { // what somebody typed stays where the data says nothing
      $("system").value = filled = system;
      changed();
      openSettings(innerWidth > 1000); // what is said besides the question is to be seen
    }
    const before = turns.slice(first, -1);
    for (const column of columns) if (before.length) column.show(before.map(turn => ({ ...turn, pace: "from the data" })));
  }
  $("message").value = turns.at(-1)?.content ?? question.textContent ?? "";
  $("composer").requestSubmit();
}

/** @param {Event} event */
function send(event) {
  event.preventDefault();
  const text = $("message").value.trim();
  if (!text || columns.some(column => column.asking)) return;
  const wrong = [...$("settings").elements].find(field => !field.checkValidity());
  if (wrong) {
    openSettings(true);
    wrong.reportValidity();
    return;
  }
  $("message").value = "";
  for (const column of columns) void column.ask(text);
}

function stop() {
  for (const column of columns) column.stop();
  $("message").focus();
}

async function clear() {
  if (columns.every(column => !column.said.length)) return;
  if (!await sure("Clear every conversation?", { action: "Clear", more: "Ratings that were given stay." })) return;
  for (const column of columns) { column.stop(); column.clear(); }
  keep();
  $("message").focus();
}

function start() {
  const before = kept();
  readAddress();
  for (const name of JSON.parse($("play").dataset.chosen)) addColumn(name);
  for (const column of columns) {
    const found = before.findIndex(one => one.name === column.name);
    if (found >= 0) column.show(before.splice(found, 1)[0].said);
  }
  shown = 0;
  changed();
  $("composer").addEventListener("submit", send);
  $("stop").addEventListener("click", stop);
  $("clear").addEventListener("click", () => void clear());
  $("add-column").addEventListener("click", () => {
    const used = new Set(columns.map(column => column.name));
    const names = [...columns[0].select.options].map(option => option.value);
    addColumn(names.find(name => !used.has(name)) ?? names[0]);
    columns.at(-1)?.select.focus();
  });
  $("show-settings").addEventListener("click", () => openSettings($("sampling").hidden));
  $("settings").addEventListener("input", () => { drawOutputs(); changed(); });
  $("settings").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
  $("settings").addEventListener("reset", () => setTimeout(() => { drawOutputs(); changed(); }));
  $("message").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
  });
  document.addEventListener("keydown", event => { if (event.key === "Escape" && columns.some(column => column.asking)) stop(); });
}

if (MOST) start();

// @ts-check
/** A conversation with a model: what was said goes along with each question. */
import { call, stream } from "./api.js";
import { $, announce, make, onSubmit, setOptions, setText } from "./dom.js";

/** @type {{role: "user" | "assistant", content: string}[]} */
let said = [];
/** Set while an answer comes. @type {AbortController | undefined} */
let answering;

/** @param {string} who @param {string} text @param {string} kind */
function show(who, text, kind) {
  const whole = make("div", undefined, { class: `turn ${kind}` }), words = make("p", text), note = make("small");
  whole.append(make("strong", who), words, note);
  $("answer").append(whole);
  return { whole, words, note };
}

/** @param {boolean} on */
function setAnswering(on) {
  const [send, stop] = [$("send"), $("stop")], focused = document.activeElement;
  send.hidden = on;
  stop.hidden = !on;
  $("answer").setAttribute("aria-busy", String(on));
  if (on && focused === send) stop.focus();
  if (!on && focused === stop) $("message").focus();
  const empty = !$("answer").childElementCount;
  $("new-chat").hidden = empty || on;
  $("chat-empty").hidden = !empty;
}

/** Ask; what came before a stop or a failure stays. With nothing to keep, the question goes back to where it was written. */
async function ask() {
  const question = $("message").value.trim(), model = $("partner").value;
  if (!question) return;
  const control = answering = new AbortController();
  const mine = show("You", question, "mine"), theirs = show(model, "…", "theirs");
  $("message").value = "";
  setAnswering(true);
  let text = "";
  try {
    for await (const { kind, data } of stream("/models/chat", { model, messages: [...said, { role: "user", content: question }] }, control.signal)) {
      if (kind === "error") throw Object.assign(new Error(data.message), { hint: data.hint, details: data.details });
      if (kind === "status") setText(theirs.words, "Loading the model…");
      text += data.choices?.[0]?.delta?.content ?? "";
      if (text) setText(theirs.words, text);
      if (data.choices?.[0]?.finish_reason === "length") setText(theirs.note, "Cut: the longest answer allowed here was reached.");
    }
    if (!text) setText(theirs.words, "(an empty answer)");
    announce("The answer is there.");
  } catch (error) {
    if (text) setText(theirs.note, control.signal.aborted ? "Stopped." : "Broken off.");
    else { mine.whole.remove(); theirs.whole.remove(); if (answering === control) $("message").value = question; }
    if (!control.signal.aborted) throw error;
  } finally {
    if (text) said.push({ role: "user", content: question }, { role: "assistant", content: text });
    answering = undefined;
    setAnswering(false);
  }
}

export async function refreshModels() {
  const { items } = await call("/models/");
  $("models").replaceChildren(...items.map((/** @type {any} */ m) => make("option", undefined, { value: m.name })));
  setOptions($("partner"), items.map((/** @type {any} */ m) => [m.name, m.base_model ? `${m.name} (tuned ${m.base_model})` : m.name]), "No model yet");
}

export function startChat() {
  onSubmit($("chat"), ask);
  $("stop").addEventListener("click", () => answering?.abort());
  $("new-chat").addEventListener("click", () => {
    said = [];
    $("answer").replaceChildren();
    setAnswering(false);
    $("message").focus();
    announce("A new chat.");
  });
}

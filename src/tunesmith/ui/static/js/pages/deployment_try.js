// @ts-check
/** A conversation with a deployment, asked for as programs ask for it: streamed from /v1/chat/completions. */
import { refreshParts } from "../actions.js";
import { call, stream } from "../api.js";
import { $, announce, icon, make, setText } from "../dom.js";
import { toastError } from "../toast.js";
import { signif } from "../words.js";

/** How long the record of an answer may take to be written, ms. */
const WRITTEN_MS = 1500;

/** @type {{role: string, content: string}[]} */
let messages = [];
/** Keeps a conversation with one model while several share the traffic. */
let talker = newTalker();
/** @type {AbortController | undefined} */
let asking;

function newTalker() {
  return `page-${Math.random().toString(36).slice(2)}`;
}

/** @param {string} uid @param {string | null} verdict */
function rate(uid, verdict) {
  return call(`/deployments/${$("deployment").dataset.deployment}/requests/${encodeURIComponent(uid)}/rating`, { method: "PUT", json: { verdict } });
}

/** @param {string} uid */
function thumbs(uid) {
  const place = make("span", undefined, { class: "row thumbs" });
  for (const [verdict, label] of [["up", "Good answer"], ["down", "Bad answer"]]) {
    const button = make("button", undefined, { class: "btn", type: "button", "data-variant": "ghost", "data-size": "icon-sm", "data-verdict": verdict, "aria-pressed": "false", "aria-label": label, title: label }, [icon(`thumbs-${verdict}`)]);
    button.addEventListener("click", () => {
      const chosen = button.getAttribute("aria-pressed") === "true" ? null : verdict;
      rate(uid, chosen).then(() => {
        for (const other of place.children) other.setAttribute("aria-pressed", String(other.dataset.verdict === chosen));
        announce(chosen ? `Rated: ${chosen}` : "The rating is taken back.");
        refreshParts();
      }, toastError);
    });
    place.append(button);
  }
  return place;
}

/** @param {boolean} busy */
function show(busy) {
  $("try-send").hidden = busy;
  $("try-stop").hidden = !busy;
}

/** @param {string} text */
async function ask(text) {
  const turns = $("try-turns"), said = make("div", "", { class: "answer-text" }), foot = make("div", undefined, { class: "answer-foot" });
  const answer = make("div", undefined, { class: "turn turn-answer", "aria-busy": "true" }, [said, foot]);
  $("try-start")?.remove();
  turns.append(make("p", text, { class: "turn turn-user" }), answer);
  const talk = messages; // somebody may begin anew meanwhile
  talk.push({ role: "user", content: text });
  const control = asking = new AbortController(), began = performance.now();
  let content = "", uid = "", model = "", tokens = 0;
  show(true);
  try {
    const asked = { model: $("deployment").dataset.name, messages: talk, user: talker, stream: true, stream_options: { include_usage: true } };
    for await (const { data } of stream("/v1/chat/completions", asked, control.signal, headers => { uid = headers.get("X-Request-Id") ?? ""; model = headers.get("X-Tunesmith-Model") ?? ""; })) {
      if (data.error) throw new Error(data.error.message);
      content += data.choices?.[0]?.delta?.content ?? "";
      tokens = data.usage?.completion_tokens ?? tokens;
      setText(said, content);
      turns.scrollTop = turns.scrollHeight;
    }
    announce("The answer is there.");
  } catch (error) {
    if (!control.signal.aborted) answer.append(make("p", /** @type {any} */ (error).message, { class: "problem", role: "alert" }));
  } finally {
    const took = (performance.now() - began) / 1000;
    answer.removeAttribute("aria-busy");
    if (content) talk.push({ role: "assistant", content });
    else talk.pop(); // nothing was said to it
    foot.append(make("span", [model, `${signif(took, 2)} s`, tokens ? `${tokens} tokens` : ""].filter(Boolean).join(" · "), { class: "pace" }));
    if (uid && content) foot.append(thumbs(uid));
    asking = undefined;
    show(false);
    setTimeout(refreshParts, WRITTEN_MS);
  }
}

export function startTrying() {
  const field = $("try-message");
  $("try").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    const text = field.value.trim();
    if (!text || asking) return;
    field.value = "";
    void ask(text);
  });
  field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("try").requestSubmit();
  });
  $("try-stop").addEventListener("click", () => { asking?.abort(); field.focus(); });
  $("try-clear").addEventListener("click", () => {
    asking?.abort();
    messages = [];
    talker = newTalker();
    $("try-turns").replaceChildren(make("p", "Ask something. It counts as a request.", { class: "muted small", id: "try-start" }));
    field.focus();
  });
}

// @ts-check
/** A blind battle: both sides answer one after the other, then the vote tells who was who. */
import { ApiError, post, stream } from "../api.js";
import { $, announce, attempt, setText, showProblem } from "../dom.js";

/** @type {number} */
let battle = 0;
/** @type {AbortController | null} */
let answering = null;

const isOwn = () => !$("dataset").value;

function body() {
  const models = [...$("begin").querySelectorAll("[name=models]:checked")].map(box => box.value);
  if (models.length < 2) throw new ApiError("A battle needs two models.", "Tick another one.");
  if (isOwn() && !$("prompt").value.trim()) throw new ApiError("There is no question yet.", "Write one, or take them from a dataset.");
  return isOwn() ? { models, prompt: $("prompt").value.trim() } : { models, dataset_id: Number($("dataset").value) };
}

/** @param {"a" | "b"} side @param {AbortSignal} signal */
async function answer(side, signal) {
  const said = $(`said-${side}`), foot = $(`foot-${side}`);
  let text = "";
  setText(foot, "Answering…");
  for await (const { kind, data } of stream(`/evaluations/arena/battles/${battle}/answers/${side}`, {}, signal)) {
    if (kind === "status") setText(foot, "Loading the model; the first answer takes a while…");
    else if (kind === "error") throw data;
    else {
      text += data.choices[0].delta.content ?? "";
      setText(said, text);
    }
  }
  setText(foot, text ? "" : "It said nothing.");
}

async function begin() {
  const made = await post("/evaluations/arena/battles", body());
  battle = made.id;
  answering?.abort();
  const signal = (answering = new AbortController()).signal;
  setText($("question"), made.prompt);
  for (const side of ["a", "b"]) {
    setText($(`side-${side}-title`), side.toUpperCase());
    setText($(`said-${side}`), "");
    setText($(`foot-${side}`), "Waiting for its turn…");
  }
  $("battle").hidden = false;
  $("votes").hidden = $("again").hidden = true;
  $("battle-problem").hidden = true;
  $("battle").scrollIntoView({ block: "start" });
  try {
    await answer("a", signal);
    await answer("b", signal);
    $("votes").hidden = false;
    announce("Both have answered. Vote now.");
  } catch (error) {
    if (signal.aborted) return;
    showProblem($("battle-problem"), error);
    $("again").hidden = false;
  }
}

/** @param {HTMLElement} button */
async function vote(button) {
  const told = await post(`/evaluations/arena/battles/${battle}/vote`, { vote: button.dataset.vote });
  for (const side of ["a", "b"]) setText($(`side-${side}-title`), `${side.toUpperCase()} was ${told[`model_${side}`]}`);
  $("votes").hidden = true;
  $("again").hidden = false;
  $("next").focus();
  announce(`A was ${told.model_a}, B was ${told.model_b}.`);
  document.body.dispatchEvent(new CustomEvent("tunesmith:voted"));
}

if ($("begin")) {
  $("dataset").addEventListener("change", () => { $("own").hidden = !isOwn(); });
  $("begin").addEventListener("submit", (/** @type {Event} */ event) => { event.preventDefault(); void attempt($("begin"), $("begin-problem"), begin); });
  for (const button of document.querySelectorAll("[data-vote]")) button.addEventListener("click", () => attempt($("votes"), $("battle-problem"), () => vote(/** @type {HTMLElement} */ (button))));
  $("next").addEventListener("click", () => { if (isOwn()) { $("prompt").focus(); $("prompt").select(); } else $("begin").requestSubmit(); });
}

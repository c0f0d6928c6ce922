// @ts-check
/** Trying a model that does not chat: the server draws its form from the task, the answer is drawn here. */
import { clearProblems, refreshParts, showProblems, valuesOf } from "./actions.js";
import { call, request } from "./api.js";
import { $, announce, attempt, make, setText } from "./dom.js";
import { signif } from "./words.js";

/** @typedef {{label: string, score: number, cut?: boolean}} Label */
/** @typedef {Label & {start: number, end: number, text: string}} Span */

/** Labels that are shown at once; the rest is folded away. */
const SHOWN = 10;
const FIRST_NUMBERS = 8;
/** How long the record of a request may take to be written, ms. */
const WRITTEN_MS = 1500;

const percent = (/** @type {number} */ share) => `${(share * 100).toFixed(1)} %`;

/** @param {string} label @param {number} share @param {string} [said] */
function bar(label, share, said = percent(share)) {
  const filled = make("span", undefined, { class: "class-filled" });
  filled.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return make("li", undefined, {}, [make("span", label, { class: "class-name", dir: "auto" }), make("span", said, { class: "num" }), make("span", undefined, { class: "class-bar", "aria-hidden": "true" }, [filled])]);
}

/** @param {Label[]} labels */
function drawLabels(labels) {
  /** @type {Node[]} */
  const drawn = [], unsure = labels[0]?.label === "unsure", shown = unsure ? labels.slice(1) : labels;
  if (unsure) drawn.push(make("p", "The model would rather not say: no label is likely enough.", { class: "note" }));
  if (labels.some(one => one.cut)) drawn.push(make("p", "The input is longer than the model can read, and was cut.", { class: "note" }));
  if (!labels.length) drawn.push(make("p", "No label is likely enough.", { class: "muted" }));
  drawn.push(make("ol", undefined, { class: "class-bars plain" }, shown.slice(0, SHOWN).map(one => bar(one.label, one.score))));
  if (shown.length > SHOWN) drawn.push(make("details", undefined, {}, [make("summary", `${shown.length - SHOWN} more`), make("ol", undefined, { class: "class-bars plain" }, shown.slice(SHOWN).map(one => bar(one.label, one.score)))]));
  return drawn;
}

/** @param {Span[]} spans @param {string} text */
function drawSpans(spans, text) {
  const letters = Array.from(text), said = make("p", undefined, { class: "marked-text", dir: "auto" });
  const sorted = [...spans].sort((a, b) => a.start - b.start);
  let at = 0;
  for (const span of sorted) {
    if (span.start < at) continue; // lies within another one; the list below has it
    said.append(letters.slice(at, span.start).join(""), make("mark", undefined, {}, [letters.slice(span.start, span.end).join(""), make("span", span.label, { class: "mark-label" })]));
    at = span.end;
  }
  said.append(letters.slice(at).join(""));
  const rows = sorted.map(span => make("li", `${span.text}: ${span.label}, ${percent(span.score)}`));
  return [said, rows.length ? make("ul", undefined, { class: "small" }, rows) : make("p", "Nothing was found.", { class: "muted" })];
}

/** @param {any} told */
function drawValue(told) {
  const bounds = told.low != null && told.high != null ? make("p", `between ${signif(told.low, 4)} and ${signif(told.high, 4)}`, { class: "muted" }) : "";
  return [make("p", signif(told.value, 6), { class: "stat-value" }), bounds];
}

/** @param {any} output */
const drawJson = output => [make("pre", JSON.stringify(output, null, 2), { class: "code-text", tabindex: "0", role: "region", "aria-label": "Answer as JSON" })];

/** @param {string} answered @param {any} output @param {any} input @returns {(Node | string)[]} */
function draw(answered, output, input) {
  if (answered === "labels") return drawLabels(output);
  if (answered === "spans") return drawSpans(output, String(input));
  if (answered === "value") return drawValue(output);
  if (answered === "vector") return [make("p", `A vector of ${output.length.toLocaleString("en")} numbers`), make("p", `${output.slice(0, FIRST_NUMBERS).map((/** @type {number} */ n) => signif(n, 4)).join(", ")}${output.length > FIRST_NUMBERS ? ", …" : ""}`, { class: "mono small" })];
  if (answered === "scores") return [make("ol", undefined, { class: "class-bars plain" }, output.map((/** @type {number} */ score, /** @type {number} */ n) => bar(input.texts[n], score, signif(score, 3))))];
  if (answered === "text") return [make("p", output, { class: "said", dir: "auto" })];
  if (answered === "boxes") return [make("ul", undefined, {}, output.map((/** @type {any} */ one) => make("li", `${one.label}, ${percent(one.score)}: ${one.box.xmin}, ${one.box.ymin} to ${one.box.xmax}, ${one.box.ymax}`)))];
  if (answered === "image") return [make("img", undefined, { src: `data:image/png;base64,${output}`, alt: "The image that the model made", class: "made-image" })];
  return drawJson(output);
}

/** @param {File} file @returns {Promise<string>} as base64 */
function asBase64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).replace(/^[^,]*,/, ""));
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(file);
  });
}

/** @param {string} name @param {string} message */
const missing = (name, message) => Object.assign(new Error("An input is missing."), { details: [{ loc: name, message }] });

/** What the form holds, as one input. Throws with `details` where something is missing. @param {HTMLFormElement} form @param {string} asked @returns {Promise<{input: any, parameters: any}>} */
async function read(form, asked) {
  const values = valuesOf(form), parameters = values.parameters ?? {};
  const media = /** @type {HTMLInputElement | null} */ (form.elements.namedItem("media"));
  if (media) {
    if (!media.files?.length) throw missing("media", "Choose a file.");
    return { input: await asBase64(media.files[0]), parameters };
  }
  if (asked === "texts") {
    const texts = String(values.texts).split("\n").filter(line => line.trim());
    if (!values.query.trim()) throw missing("query", "Write a query.");
    if (!texts.length) throw missing("texts", "Write at least one text.");
    return { input: { query: values.query, texts }, parameters };
  }
  const fields = [...form.elements].filter(field => field.getAttribute("name")?.startsWith("row."));
  if (fields.length) return { input: Object.fromEntries(fields.map(field => rowValue(/** @type {any} */ (field)))), parameters };
  if (values.inputs === undefined || values.inputs === "") throw missing("inputs", "Write something.");
  return { input: values.inputs, parameters };
}

/** @param {HTMLInputElement} field @returns {[string, string | number | null]} */
function rowValue(field) {
  if (field.validity.badInput) throw missing(field.name, "This is no number.");
  const text = field.value;
  return [field.name.slice("row.".length), text.trim() === "" ? null : field.dataset.type === "number" ? Number(text) : text];
}

/** The server counts inputs, a form has one: its places become names of fields. @param {any} error */
function atFields(error) {
  const details = (error.details ?? []).map((/** @type {any} */ detail) => {
    const loc = String(detail.loc ?? ""), parameter = /^parameters\.(.*)/.exec(loc)?.[1];
    if (parameter) return { loc: "parameters", message: `${parameter}: ${detail.message}` };
    return { ...detail, loc: loc.replace(/^inputs\.0\./, "row.").replace(/^inputs\.0$/, "inputs") };
  });
  return Object.assign(new Error(String(error.message).replace(/inputs\.0\b/g, "The input")), { hint: error.hint, details });
}

function startForm() {
  const place = $("predict"), form = $("predict-form"), answer = $("predict-answer");
  const { url, asked, answered } = place.dataset;
  form.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (form.getAttribute("aria-busy") === "true") return;
    form.setAttribute("aria-busy", "true");
    clearProblems(form);
    setText($("predict-wait"), "Asking …");
    const began = performance.now();
    try {
      const { input, parameters } = await read(form, asked);
      const told = await call(`${url}/predict`, { json: { inputs: [input], parameters } });
      const took = `${told.model} · ${signif((performance.now() - began) / 1000, 2)} s`;
      answer.replaceChildren(...draw(answered, told.outputs[0], input), make("p", took, { class: "muted small" }));
      answer.hidden = false;
      announce("The answer is there.");
      setTimeout(refreshParts, WRITTEN_MS);
    } catch (error) {
      answer.hidden = true;
      showProblems(form, atFields(error));
    } finally {
      setText($("predict-wait"), "");
      form.removeAttribute("aria-busy");
    }
  });
  form.addEventListener("reset", () => { clearProblems(form); answer.hidden = true; });
  form.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

function startFile() {
  const form = $("predict-file"), file = $("predict-csv");
  form.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    clearProblems(form);
    const chosen = file.files?.[0], column = $("predict-csv-column")?.value.trim();
    if (!chosen) { showProblems(form, missing("file", "Choose a file.")); return; }
    void attempt(form, form.querySelector("[data-problems]"), async () => {
      const query = column ? `?column=${encodeURIComponent(column)}` : "";
      const found = await request(`${$("predict").dataset.url}/predict-file${query}`, { method: "POST", body: chosen, headers: { "Content-Type": "text/csv" } });
      const link = make("a", undefined, { href: URL.createObjectURL(await found.blob()), download: `${chosen.name.replace(/\.csv$/i, "")}-predictions.csv` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      announce("The file with the answers is there.");
    });
  });
}

if ($("predict")) {
  startForm();
  startFile();
}

// @ts-check
/** Uploads, the table of datasets, and what validation found. */
import { call, remove, upload } from "./api.js";
import { $, announce, attempt, keyedTable, make, makeButton, makeRow, onSubmit, plural, setOptions, setText, showProblem, sure } from "./dom.js";

/** Datasets whose report is to open as soon as there is one. @type {Set<number>} */
const fresh = new Set();
let limit = 20, watching = false;

/** @param {any} d */
const findings = d => [d.num_errors && plural(d.num_errors, "error"), d.num_warnings && plural(d.num_warnings, "warning")].filter(Boolean).join(", ") || "no errors";

/** @param {number} id */
function build(id) {
  const { body, cells, problem, notes } = makeRow($("datasets"));
  const [name, status, rows, shape, found, actions] = cells;
  const state = make("span", undefined, { class: "status" }), bar = make("progress", undefined, { max: "1" });
  status.append(state, bar);
  let version = "";
  const open = makeButton("", "", () => attempt(open, problem, () => show(notes.childElementCount === 0)));
  const drop = makeButton("Delete", "", () => attempt(drop, problem, async () => {
    if (!await sure(`Delete the dataset “${name.textContent}” and its files? This cannot be undone.`, "Delete")) return;
    await remove(`/datasets/${id}`);
    announce(`${name.textContent} is deleted.`);
    await refreshDatasets();
  }));
  found.append(open);
  actions.append(drop);

  /** @param {boolean} opened */
  async function show(opened) {
    notes.replaceChildren(...(opened ? [report((await call(`/datasets/${id}/validation`)).findings)] : []));
    open.setAttribute("aria-expanded", String(opened));
  }

  /** @param {any} d */
  function draw(d) {
    setText(name, d.name);
    setText(state, d.status === "processing" ? `processing ${Math.round(d.progress * 100)} %` : d.status);
    state.dataset.status = d.status;
    bar.hidden = d.status !== "processing";
    bar.value = d.progress;
    bar.setAttribute("aria-label", `Processing of ${d.name}`);
    setText(rows, d.num_rows?.toLocaleString("en") ?? "");
    setText(shape, (d.shape ?? "").replaceAll("_", " "));
    open.hidden = d.status !== "ready";
    found.classList.toggle("off", open.hidden);
    setText(open, findings(d));
    open.setAttribute("aria-label", `${findings(d)}: findings of ${d.name}`);
    drop.setAttribute("aria-label", `Delete ${d.name}`);
    if (d.status === "failed" && version !== "failed") showProblem(problem, d.error ?? { message: "It could not be read." });
    if (d.status === "ready" && (fresh.delete(id) || (version && version !== d.version && notes.childElementCount))) void attempt(open, problem, () => show(true));
    version = d.status === "failed" ? "failed" : d.version ?? "";
  }
  return { body, draw };
}

/** @param {any[]} found */
function report(found) {
  if (!found.length) return make("p", "Nothing wrong was found. Choose it under New job.");
  const list = make("ul", undefined, { class: "findings" });
  for (const f of found) {
    const rows = f.rows.length ? `Rows ${f.rows.slice(0, 10).join(", ")}${f.count > 10 || f.rows.length > 10 ? ", …" : "."}` : "";
    const column = f.column && !f.message.includes(f.column) ? `Column ${f.column}` : "";
    const said = [column, f.message, f.hint].filter(Boolean).map(text => /[.:!?]$/.test(text) ? text : `${text}.`);
    const item = make("li", undefined, { class: f.level });
    item.append(make("strong", f.level), ` ${[...said, rows].join(" ")}`);
    list.append(item);
  }
  return list;
}

const draw = keyedTable($("datasets"), $("no-datasets"), build);

export async function refreshDatasets() {
  const { items, next_cursor } = await call(`/datasets/?limit=${limit}`);
  for (const d of items) if (fresh.has(d.id) && d.status !== "processing") announce(d.status === "ready" ? `${d.name}: ready, ${plural(d.num_rows, "row")}, ${findings(d)}.` : `${d.name}: failed.`);
  draw(items);
  $("more-datasets").hidden = next_cursor == null;
  const ready = items.filter((/** @type {any} */ d) => d.status === "ready");
  setOptions($("dataset"), ready.map((/** @type {any} */ d) => [String(d.id), d.name]), "Upload a dataset first");
  if (items.some((/** @type {any} */ d) => d.status === "processing")) void watch();
}

/** Look again and again while something is processed. */
async function watch() {
  if (watching) return;
  watching = true;
  await new Promise(resolve => setTimeout(resolve, 400));
  watching = false;
  await refreshDatasets().catch(error => showProblem($("problem"), error));
}

/** @param {File} file */
async function send(file) {
  const bar = $("upload-progress"), megabytes = (/** @type {number} */ n) => (n / 1e6).toFixed(1);
  bar.value = 0;
  const made = await upload(file, sent => {
    bar.value = file.size ? sent / file.size : 1;
    setText($("upload-line"), sent < file.size ? `Sending ${file.name}: ${megabytes(sent)} of ${megabytes(file.size)} MB` : `${file.name} is sent; the server stores it.`);
  });
  fresh.add(made.id);
  await refreshDatasets();
}

export function startDatasets() {
  onSubmit($("upload"), async () => {
    $("sending").hidden = false;
    announce("The upload begins.");
    try {
      for (const file of $("file").files) await send(file).catch(error => { error.message = `${file.name}: ${error.message}`; throw error; });
      $("upload").reset();
    } finally {
      $("sending").hidden = true;
    }
  });
  $("more-datasets").addEventListener("click", () => attempt($("more-datasets"), $("problem"), async () => { limit = Math.min(limit + 40, 200); await refreshDatasets(); }));
}

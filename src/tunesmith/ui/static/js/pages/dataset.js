// @ts-check
/** One dataset: starts what the open tab needs, again after the page has refreshed itself. */
import { call } from "../api.js";
import { mappingControls } from "../dataset-mapping.js";
import { readingControls } from "../dataset-reading.js";
import { startRepair } from "../dataset-repair.js";
import { Rows } from "../dataset-rows.js";
import { cells, chat, messagesOf, remember } from "../dataset-row.js";
import { attempt, icon, make, showProblem } from "../dom.js";
import { toast } from "../toast.js";
import { startTokens } from "../token-view.js";

/** @param {HTMLElement} place */
function startMapping(place) {
  const data = JSON.parse(place.dataset.mapping ?? ""), columns = JSON.parse(place.dataset.columns ?? "[]"), shapes = Object.fromEntries(JSON.parse(place.dataset.shapes ?? "[]"));
  const example = /** @type {HTMLElement} */ (document.querySelector("[data-mapping-example]"));
  let reading = { shape: data.shape, mapping: data.mapping }, row = /** @type {any} */ (null);
  const save = make("button", undefined, { class: "btn", type: "submit", disabled: "" }, [icon("check"), "Save as a new version"]);
  const problem = make("div", undefined, { hidden: "" });
  const loadExample = async () => {
    const asked = reading, query = new URLSearchParams({ version: data.version, limit: "1", shape: asked.shape });
    for (const [role, column] of Object.entries(asked.mapping)) query.append("role", `${role}=${column}`);
    try {
      const answer = remember(await call(`/datasets/${data.id}/preview?${query}`));
      if (asked === reading) { row = answer.rows[0]; drawExample(); }
    } catch (error) { showProblem(example, error); }
  };
  const drawExample = () => {
    if (!row) return;
    const missing = shapes[reading.shape].required.filter((/** @type {string} */ role) => !reading.mapping[role]);
    const talk = missing.length ? null : messagesOf(row);
    example.replaceChildren(missing.length ? make("p", `Choose the column of the ${missing.join(" and the ")}.`, { class: "muted" }) : talk ? chat(talk) : cells(row, Object.values(reading.mapping).length ? Object.values(reading.mapping) : columns));
  };
  const form = make("form", undefined, { class: "stack" }, [mappingControls(shapes, columns, reading, data.type, next => {
    reading = next;
    save.disabled = !data.newest || JSON.stringify(next) === JSON.stringify({ shape: data.shape, mapping: data.mapping }) || shapes[next.shape].required.some((/** @type {string} */ role) => !next.mapping[role]);
    void loadExample();
  }), problem, make("div", undefined, { class: "row" }, [save])]);
  form.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    void attempt(save, problem, async () => {
      await call(`/datasets/${data.id}`, { method: "PATCH", json: reading });
      save.disabled = true;
      toast("A version with these columns is being made.");
      document.body.dispatchEvent(new CustomEvent("tunesmith:dataset"));
    });
  });
  place.replaceChildren(form);
  void loadExample();
}

/** The file read in another way: a new version. @param {HTMLElement} place */
function startReading(place) {
  const data = JSON.parse(place.dataset.reading ?? "");
  let options = data.options;
  const save = make("button", undefined, { class: "btn", type: "submit", disabled: "" }, [icon("rotate-cw"), "Read the file again"]), problem = make("div", undefined, { hidden: "" }), controls = make("div");
  const keys = /** @type {const} */ (["sheet", "header_row", "delimiter"]);
  /** What was found, with what is chosen now; other columns come with another sheet, header or delimiter. */
  const layout = () => {
    const chosen = Object.fromEntries(keys.filter(key => key in options).map(key => [key, options[key]]));
    const isOther = keys.some(key => key in chosen && chosen[key] !== data.layout[key]) || keys.some(key => key in data.options && !(key in options));
    return { ...data.layout, ...chosen, ...(isOther && options.header_row !== 0 ? { columns: [] } : {}) };
  };
  const draw = () => controls.replaceChildren(readingControls({ ...data, layout: layout() }, options, next => {
    const focused = /** @type {any} */ (document.activeElement), option = focused.closest("[data-option]")?.dataset.option;
    options = next;
    save.disabled = !data.newest || JSON.stringify(next) === JSON.stringify(data.options);
    draw();
    const again = option && controls.querySelector(`[data-option="${option}"]`);
    (again instanceof HTMLFieldSetElement ? again.querySelector(`input[value="${CSS.escape(focused.value)}"]`) : again)?.focus();
  }));
  draw();
  const form = make("form", undefined, { class: "stack" }, [controls, problem, make("div", undefined, { class: "row" }, [save])]);
  form.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    void attempt(save, problem, async () => {
      const gone = Object.fromEntries(Object.keys(data.options).filter(name => !(name in options)).map(name => [name, null]));
      await call(`/datasets/${data.id}`, { method: "PATCH", json: { ...gone, ...options } });
      save.disabled = true;
      toast("The file is being read again.");
      document.body.dispatchEvent(new CustomEvent("tunesmith:dataset"));
    });
  });
  place.replaceChildren(form);
}

/** @param {string} selector @param {(place: any) => void} start */
function once(selector, start) {
  for (const place of document.querySelectorAll(selector)) {
    if (place instanceof HTMLElement && !place.dataset.started) {
      place.dataset.started = "yes";
      start(place);
    }
  }
}

function startTab() {
  once("[data-rows]", place => new Rows(place, JSON.parse(place.dataset.rows), JSON.parse(place.dataset.columns), JSON.parse(place.dataset.numbers)));
  once("[data-mapping]", startMapping);
  once("[data-reading]", startReading);
  once("#repair", startRepair);
  once("[data-tokens]", startTokens);
}

document.addEventListener("htmx:after:swap", startTab);
document.addEventListener("click", event => {
  /** @type {HTMLDialogElement | null | undefined} */ (/** @type {Element} */ (event.target).closest("[data-close]")?.closest("dialog"))?.close();
});
startTab();

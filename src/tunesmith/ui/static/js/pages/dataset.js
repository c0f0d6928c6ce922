// @ts-check
/** One dataset: starts what the open tab needs, again after the page has refreshed itself. */
import { call } from "../api.js";
import { mappingControls } from "../dataset-mapping.js";
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
  once("#repair", startRepair);
  once("[data-tokens]", startTokens);
}

document.addEventListener("htmx:after:swap", startTab);
document.addEventListener("click", event => {
  /** @type {HTMLDialogElement | null | undefined} */ (/** @type {Element} */ (event.target).closest("[data-close]")?.closest("dialog"))?.close();
});
startTab();

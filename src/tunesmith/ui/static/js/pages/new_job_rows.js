// @ts-check
/** What becomes of the rows under the chosen model and settings, and how the model will read the first of them. */
import { $, attempt, icon, make } from "../dom.js";
import { showTokens } from "../token-view.js";

const SETTINGS = ["max_length", "train_on", "system_prompt", "tool_calls", "rewritten_turns"];

/** @param {Record<string, any>} job @param {any} plan null while something is missing */
export function showRows(job, plan) {
  const checks = $("plan-checks"), place = $("plan-tokens"), can = plan && job.model && job.dataset_id && plan.hyperparameters.max_length;
  $("plan-rows").hidden = !can;
  if (!can) return;
  checks.replaceChildren(...plan.checks.map((/** @type {any} */ check) => make("li", undefined, { "data-level": check.level }, [icon(check.level === "info" ? "info" : "triangle-alert"), make("span", `${check.message} ${check.hint}`.trim())])));
  checks.hidden = !plan.checks.length;
  const settings = Object.fromEntries(SETTINGS.map(name => [name, plan.hyperparameters[name]])), asked = JSON.stringify([job.model, job.dataset_id, job.dataset_version, settings]);
  if (place.dataset.asked !== asked) place.replaceChildren();
  const button = /** @type {HTMLButtonElement} */ ($("plan-show"));
  button.onclick = () => attempt(button, $("plan-problem"), async () => {
    await showTokens(place, job.dataset_id, { model: job.model, version: job.dataset_version, rows: /** @type {HTMLInputElement} */ ($("plan-row")).value, ...settings });
    place.dataset.asked = asked;
  });
}

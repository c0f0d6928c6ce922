// @ts-check
/** The job in words, and as texts to copy. */
import { call } from "../api.js";
import { $, make } from "../dom.js";
import { bytes, exact, number, percent, plural, signif } from "../words.js";
import { timeOf } from "./new_job_plan.js";
import { showRows } from "./new_job_rows.js";

const USES = /** @type {Record<string, string>} */ ({ yaml: "Save as job.yaml, then: tunesmith train --config job.yaml", curl: "Paste into a terminal", python: "With pip install tunesmith", cli: "Paste into a terminal" });
/** @type {Record<string, string>} */
let texts = {};

/** @param {Record<string, any>} job @param {any} plan @param {Record<string, string>} names of dataset, model, method and the job to wait for */
export function showWords(job, plan, names) {
  const place = $("words");
  showRows(job, plan);
  if (!plan) {
    place.replaceChildren(make("p", "A few things are still missing; they are listed under “Your job”.", { class: "muted" }));
    return;
  }
  place.replaceChildren(...[what(job, plan, names), how(plan), keeps(plan), when(job, names)].filter(Boolean).map(text => make("p", text)));
}

/** @param {Record<string, any>} job @param {any} plan @param {Record<string, string>} names */
function what(job, plan, names) {
  const p = plan.hyperparameters, held = job.eval_dataset_id ? "another dataset is held out to measure what it learns" : p.validation_split ? `${percent(p.validation_split)} of its rows are held out to measure what it learns` : "no rows are held out, so there is no validation curve";
  if (p.epochs === undefined) return `Runs ${names.method}${job.dataset_id ? ` on ${names.dataset}` : ""}.`;
  return `Trains ${names.model} with ${names.method} on ${names.dataset}; ${held}.`;
}

/** @param {any} plan */
function how(plan) {
  const p = plan.hyperparameters, e = plan.estimate;
  if (p.epochs === undefined) return "";
  const passes = p.max_steps ? "" : `${plural(p.epochs, "pass")}`.replace("passs", "passes");
  const time = timeOf(e), memory = e.fits === null ? "" : ` and ${bytes(e.memory_bytes)} of ${bytes(e.memory_available_bytes)} memory`;
  return `${passes ? `${passes}: ` : ""}${plural(e.total_steps, "step")} of ${number(p.batch_size * p.gradient_accumulation_steps)} rows each, learning rate ${signif(p.learning_rate)} (${p.scheduler.replaceAll("_", " ")}), rows of up to ${number(p.max_length)} tokens.${time ? ` It takes ${time}${memory}.` : ""}`;
}

/** @param {any} plan */
function keeps(plan) {
  const p = plan.hyperparameters;
  if (p.save_steps === undefined) return "";
  const best = p.save_best_model && plan.estimate.total_steps ? " The weights that do best on the held-out rows become the model." : "";
  return `A checkpoint every ${plural(p.save_steps ?? Math.max(1, Math.floor(plan.estimate.total_steps / 10)), "step")}; the last ${number(p.save_total_limit)} are kept.${p.early_stopping.enabled ? ` It stops early after ${plural(p.early_stopping.patience, "evaluation")} without gain.` : ""}${best}`;
}

/** @param {Record<string, any>} job @param {Record<string, string>} names */
function when(job, names) {
  const starts = job.after_job_id ? `after job ${names.after || job.after_job_id}${job.after_failure === false ? ", if that does not fail" : ""}`
    : job.not_before ? `not before ${exact(new Date(job.not_before))}`
      : job.start === "off_peak" ? "in the off-peak hours" : job.start === "manual" ? "when you start it by hand" : "now, or as soon as the machine is free";
  const tags = job.tags?.length ? ` Tags: ${job.tags.join(", ")}.` : "";
  return `It starts ${starts}, with ${job.priority ?? "normal"} priority.${tags}`;
}

/** @param {Record<string, any>} job */
export async function showTexts(job) {
  try {
    texts = await call(`/jobs/write-out?url=${encodeURIComponent(location.origin)}`, { json: job });
  } catch (error) {
    const said = /** @type {any} */ (error);
    texts = Object.fromEntries(Object.keys(USES).map(key => [key, `${said.message} ${said.hint ?? ""}`.trim()]));
  }
  showText();
}

function showText() {
  const tab = /** @type {HTMLElement} */ (document.querySelector('[data-text][aria-selected="true"]')), key = tab.dataset.text ?? "yaml";
  $("text").textContent = texts[key] ?? "";
  $("text-copy").dataset.copy = texts[key] ?? "";
  $("text-use").textContent = USES[key];
  $("text-panel").setAttribute("aria-labelledby", tab.id);
}

/** Arrow keys move between the tabs, as in every tab list. */
export function startTabs() {
  const tabs = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[data-text]")]);
  const choose = (/** @type {HTMLElement} */ tab) => {
    for (const one of tabs) {
      one.setAttribute("aria-selected", String(one === tab));
      one.tabIndex = one === tab ? 0 : -1;
    }
    showText();
  };
  for (const [place, tab] of tabs.entries()) {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", event => {
      const moved = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (moved === undefined) return;
      event.preventDefault();
      const next = tabs[(moved + tabs.length) % tabs.length];
      next.focus();
      choose(next);
    });
  }
}

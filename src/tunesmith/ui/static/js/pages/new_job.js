// @ts-check
/** The page that makes a job: one form, shown step by step or as one page. */
import { call, post, remove } from "../api.js";
import { $, announce, clearProblem, debounce, make, showProblem } from "../dom.js";
import { toast, toastError, toastNext } from "../toast.js";
import { ago, bytes, plural } from "../words.js";
import { areRows, labelStart, showBadRows, skipWords } from "./new_job_bad_rows.js";
import { forget, keep, load, writeAddress } from "./new_job_draft.js";
import * as fields from "./new_job_fields.js";
import { methodFor, needsModel, showFit } from "./new_job_methods.js";
import { placeOf, showEstimate, showProblems, timeOf } from "./new_job_plan.js";
import { showTexts, showWords, startTabs } from "./new_job_review.js";

const VIEW = "tunesmith.new-job-view", WAIT_MS = 250;
const root = $("new-job"), start = JSON.parse(root.dataset.start);
const steps = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[data-step]")]);
let { draft, restored } = load(start);
/** @type {any} */
let plan = null;
let asked = 0, step = "dataset", startKey = "", skipping = "", labeled = 0;
/** What was picked, in words: a list that is searched may no longer show it. @type {Record<string, {words: string, note: string}>} */
const picked = {};

// -- the form ---------------------------------------------------------------------------------------------------------

/** @returns {any[]} */
const controls = () => [...document.querySelectorAll("[data-field]")];

/** @param {any} field @returns {unknown} undefined: leave it out */
function valueOf(field) {
  const type = field.dataset.type, text = (field.value ?? "").trim();
  if (type === "flag") return field.checked ? undefined : false;
  if (text === "") return undefined;
  if (type === "number") return Number(text);
  if (type === "hours") return Number.isNaN(Number(text)) ? text : Number(text) * 3600;
  if (type === "list") return text.split(",").map((/** @type {string} */ part) => part.trim()).filter(Boolean);
  return text;
}

/** @param {any} field */
function takeField(field) {
  const name = field.dataset.field, value = valueOf(field);
  if (field.type === "radio" && !field.checked) return;
  if (value === undefined) delete draft.job[name];
  else draft.job[name] = value;
  if (name === "dataset_id") draft.job.method = methodFor(shapeChosen(), draft.job.method);
  if (name === "method" || name === "dataset_id") fields.dropForeign(draft.job.hyperparameters, draft.job.method);
}

/** The shape of the rows that were chosen; empty where the list does not show them. */
const shapeChosen = () => controls().find(field => field.dataset.field === "dataset_id" && field.value === String(draft.job.dataset_id ?? ""))?.dataset.shape ?? "";

/** The form shows what the draft holds. */
function showDraft() {
  const job = draft.job;
  for (const field of controls()) {
    const value = job[field.dataset.field], type = field.dataset.type;
    if (field.type === "radio") field.checked = String(value) === field.value;
    else if (type === "flag") field.checked = value !== false;
    else if (field !== document.activeElement) choose(field, value == null ? "" : type === "hours" ? String(Number.isFinite(value) ? value / 3600 : value) : Array.isArray(value) ? value.join(", ") : String(value));
  }
  const byName = $("model-name");
  const listed = controls().some(field => field.dataset.field === "model" && field.checked);
  if (byName !== document.activeElement) byName.value = listed ? "" : job.model ?? "";
  setRadio("held_out", draft.heldOut);
  setRadio("when", draft.when);
  $("eval-field").hidden = draft.heldOut !== "dataset";
  for (const place of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-when]"))) place.hidden = place.dataset.when !== draft.when;
  if (job.not_before) $("not-before").value = localTime(new Date(job.not_before));
  choose($("after-job"), String(job.after_job_id ?? ""));
  $("after-success").checked = job.after_failure === false;
  for (const copy of /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("[data-copy-of]"))) {
    copy.value = job[copy.dataset.copyOf ?? ""] ?? "";
    copy.disabled = copy.value === "";
  }
  fields.showMethod(job.method);
  showFit(shapeChosen());
  showSettings();
  showPicked();
}

function showSettings() {
  fields.show(draft.job.hyperparameters, plan?.hyperparameters ?? null, plan?.reasons ?? {});
  fields.showGroups(draft.byHand, draft.job.hyperparameters);
}

/** A list that does not have the value, such as that of a job which has ended since, gets it. @param {any} field @param {string} value */
function choose(field, value) {
  if (field.localName === "select" && value && ![...field.options].some(option => option.value === value)) field.append(make("option", `Number ${value}`, { value }));
  field.value = value;
}

/** @param {string} name @param {string} value */
function setRadio(name, value) {
  for (const one of /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll(`[name="${name}"]`))) one.checked = one.value === value;
}

/** @param {Date} moment for an input of type datetime-local */
const localTime = moment => new Date(moment.getTime() - moment.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);

/** What was chosen, in the list of steps and beside the form. */
function showPicked() {
  for (const [key, name] of [["dataset", "dataset_id"], ["model", "model"], ["method", "method"]]) {
    const value = draft.job[name], field = controls().find(one => one.dataset.field === name && one.type === "radio" && one.checked);
    if (field) picked[name] = { words: field.dataset.words, note: field.dataset.note };
    else if (value == null) delete picked[name];
    else if (name === "model") picked[name] = { words: value, note: String(value).split("/").pop() ?? "" };
    else picked[name] ??= { words: `Number ${value}`, note: "" };
    const link = /** @type {HTMLElement} */ (document.querySelector(`[data-picked="${key}"]`)), shown = picked[name];
    link.textContent = shown?.words ?? "Choose one";
    link.toggleAttribute("data-none", !shown);
    note(key, shown ? (key === "dataset" ? shown.words : shown.note) : "");
  }
  const mine = Object.keys(draft.job.hyperparameters).length;
  note("parameters", mine ? `${plural(mine, "setting")} by you` : "chosen for you");
  note("saving", draft.when === "now" ? "starts now" : draft.when === "off_peak" ? "off-peak" : draft.when === "manual" ? "by hand" : "later");
}

/** @param {string} key @param {string} text */
function note(key, text) {
  const place = /** @type {HTMLElement} */ (document.querySelector(`[data-step-note="${key}"]`));
  place.textContent = text;
  place.closest("li")?.toggleAttribute("data-done", Boolean(text));
}

// -- what it would be -------------------------------------------------------------------------------------------------

/** The request as it is sent. @returns {Record<string, any>} */
function request() {
  const { hyperparameters, ...rest } = draft.job;
  if (!needsModel(rest.method) && rest.method !== "custom") delete rest.model;
  return Object.keys(hyperparameters).length ? { ...rest, hyperparameters } : rest;
}

/** What else was begun and not finished. @param {Record<string, any>} job @returns {string[]} */
const unfinished = job => [draft.heldOut === "dataset" && !job.eval_dataset_id ? "eval_dataset_id" : "", draft.when === "at" && !job.not_before ? "not_before" : "", draft.when === "after" && !job.after_job_id ? "after_job_id" : ""].filter(Boolean);

/** @param {string[]} locs */
const asDetails = locs => locs.map(loc => ({ loc, message: "" }));

/** What has to be chosen before anything can be told of the job. @param {Record<string, any>} job */
function missing(job) {
  const method = controls().find(field => field.dataset.field === "method" && field.checked)?.dataset ?? {};
  return [method.needsDataset !== undefined && !job.dataset_id ? "dataset_id" : "", method.needsModel !== undefined && !job.model ? "model" : ""].filter(Boolean);
}

async function replan() {
  const number = ++asked, job = request(), estimate = $("estimate"), first = missing(job);
  if (first.length) {
    showSkippable([]);
    showUnplanned(asDetails([...first, ...unfinished(job)]), job);
    afterPlan(job);
    return;
  }
  estimate.setAttribute("aria-busy", "true");
  try {
    const found = await call("/jobs/plan", { json: job });
    if (number !== asked) return;
    plan = found;
    showSkippable([]);
    clearProblem($("trouble"));
    showEstimate(plan.estimate, "", needOf(job));
    showProblems(asDetails(unfinished(job)), job, "");
  } catch (error) {
    if (number !== asked) return;
    const said = /** @type {any} */ (error), details = said.status === 422 ? said.details ?? [] : [];
    showUnplanned(details, job);
    showSkippable(details);
    if (!details.length) showProblem($("trouble"), said);
  }
  estimate.setAttribute("aria-busy", "false");
  afterPlan(job);
}

/** @param {{loc: string, message: string}[]} details @param {Record<string, any>} job */
function showUnplanned(details, job) {
  plan = null;
  showEstimate(null, missing(job).length ? `Choose a ${missing(job).map(loc => loc.replace("_id", "")).join(" and a ")} first.` : "Shown once the problems are fixed.");
  showProblems(details, job, "");
  clearProblem($("trouble"));
}

/** Rows that cannot be used: in the step about the dataset, and on the buttons that start. @param {any[]} details why the plan was refused */
function showSkippable(details) {
  const number = ++labeled, label = (/** @type {string} */ words) => { if (number === labeled) labelStart(skipping = words); };
  label("");
  if (!unfinished(request()).length) void skipWords(draft.job, details).then(label, () => { /* skipping is offered in the panel */ });
  void showBadRows(draft.job, details, setSkip, () => {
    delete draft.job.dataset_version;
    changed();
  });
}

/** @param {boolean} skip */
function setSkip(skip) {
  if (skip) draft.job.hyperparameters.skip_bad_rows = true;
  else delete draft.job.hyperparameters.skip_bad_rows;
  changed();
}

/** What the method takes at least, from the model's card: all that is known before the model is here. @param {Record<string, any>} job @returns {number | undefined} bytes */
const needOf = job => JSON.parse(controls().find(field => field.dataset.field === "model" && field.checked)?.dataset.needs ?? "{}")[job.method];

/** @param {Record<string, any>} job */
function afterPlan(job) {
  showSettings();
  showPicked();
  showWords(job, plan, names());
  if (step === "review" || root.dataset.view === "page") void showTexts(job);
}

const names = () => ({ dataset: picked.dataset_id?.words ?? "", model: picked.model?.words ?? "", method: picked.method?.words ?? draft.job.method, after: $("after-job").selectedOptions[0]?.textContent ?? "" });

/** Time and memory on each method's card. */
async function compareMethods() {
  for (const place of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-takes]"))) {
    const cannot = place.closest("label")?.hasAttribute("data-unfit") || !needsModel(place.dataset.takes ?? "");
    if (!draft.job.dataset_id || !draft.job.model || cannot) { place.textContent = ""; continue; }
    const job = { dataset_id: draft.job.dataset_id, model: draft.job.model, method: place.dataset.takes, hyperparameters: { skip_bad_rows: true } };
    try {
      const { estimate } = await call("/jobs/plan", { json: job });
      place.textContent = [timeOf(estimate), estimate.fits === null ? "" : bytes(estimate.memory_bytes), estimate.fits === false ? "does not fit" : ""].filter(Boolean).join(" · ");
      place.toggleAttribute("data-bad", estimate.fits === false);
    } catch {
      place.textContent = "";
    }
  }
}

const planSoon = debounce(() => void replan(), WAIT_MS), compareSoon = debounce(() => void compareMethods(), 2 * WAIT_MS);

/** Something was changed by hand. */
function changed() {
  startKey = "";
  keep(draft);
  writeAddress(draft, step);
  showDraft();
  planSoon();
}

// -- steps ------------------------------------------------------------------------------------------------------------

function markStep() {
  for (const link of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(".nj-steps [data-go]"))) {
    if (link.dataset.go === step) link.setAttribute("aria-current", "step");
    else link.removeAttribute("aria-current");
  }
}

/** On one page, the step is the one that is read. */
const seen = new IntersectionObserver(entries => {
  const entry = entries.find(one => one.isIntersecting);
  if (root.dataset.view !== "page" || !entry) return;
  step = entry.target.id;
  markStep();
}, { rootMargin: "-20% 0px -75% 0px" });

/** @param {string} key @param {boolean} [focus] */
function go(key, focus = true) {
  step = steps.some(one => one.dataset.step === key) ? key : "dataset";
  const whole = root.dataset.view === "page";
  for (const one of steps) one.hidden = !whole && one.dataset.step !== step;
  markStep();
  writeAddress(draft, step);
  if (step === "review" || whole) void showTexts(request());
  if (!focus) return;
  document.querySelector('.nj-steps [aria-current="step"]')?.scrollIntoView({ block: "nearest", inline: "center" });
  $(`title-${step}`).focus({ preventScroll: true });
  (whole ? $(step) : root).scrollIntoView({ block: "start" });
}

/** @param {string} view */
function setView(view) {
  root.dataset.view = view;
  for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("button[data-view]"))) button.setAttribute("aria-pressed", String(button.dataset.view === view));
  try { localStorage.setItem(VIEW, view); } catch { /* forbidden: the next visit begins step by step */ }
  go(step, false);
}

/** To the step and the field that a problem is about. @param {string} loc @returns {boolean} whether there is one */
function goTo(loc) {
  const found = placeOf(loc);
  if (!found) return false;
  go(/** @type {HTMLElement} */ (found.closest("[data-step]")).id, false);
  goToField(loc);
  return true;
}

/** @param {string} loc */
function goToField(loc) {
  const found = placeOf(loc);
  if (!found) return;
  const group = /** @type {HTMLDetailsElement | null} */ (found.closest("details"));
  if (group) group.open = true;
  const field = /** @type {HTMLElement} */ (found.querySelector("[data-control]") ?? found);
  field.focus();
  field.scrollIntoView({ block: "center" });
}

// -- start ------------------------------------------------------------------------------------------------------------

/** The same request sent twice makes one job. */
const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join("");

/** @param {HTMLElement} button */
async function startTraining(button) {
  if (button.getAttribute("aria-busy") === "true") return;
  if (skipping) setSkip(true);
  const buttons = document.querySelectorAll("[data-start]"), job = request(), open = [...missing(job), ...unfinished(job)];
  if (open.length) {
    showProblems(asDetails(open), job, "");
    announce($("to-do").textContent ?? "");
    goTo(open[0]);
    return;
  }
  for (const one of buttons) one.setAttribute("aria-busy", "true");
  startKey ||= newKey();
  try {
    const made = await call("/jobs/", { json: job, headers: { "Idempotency-Key": startKey } });
    forget();
    toastNext(draft.job.start === "manual" ? "Job saved. Start it when you like." : "Job created.");
    location.href = `/jobs/${made.id}`;
  } catch (error) {
    const said = /** @type {any} */ (error), details = said.details ?? [];
    showProblems(details, job, areRows(details) ? "" : said.hint ?? "");
    showSkippable(details);
    if (!details.length) showProblem($("trouble"), said);
    announce(said.message);
    if (!goTo(details[0]?.loc ?? "")) toastError(said);
  } finally {
    for (const one of buttons) one.removeAttribute("aria-busy");
  }
}

/** @param {HTMLElement} star */
async function collect(star) {
  const name = star.dataset.collect ?? "", kept = star.getAttribute("aria-pressed") === "true";
  try {
    if (kept) {
      const { items } = await call("/models/collection?limit=500"), found = items.find((/** @type {any} */ item) => item.name === name);
      if (found) await remove(`/models/collection/${found.id}`);
    } else await post("/models/collection", { name });
    star.setAttribute("aria-pressed", String(!kept));
    toast(kept ? `${name} is no longer in the collection.` : `${name} is in the collection.`);
  } catch (error) {
    toastError(error);
  }
}

// -- wiring -----------------------------------------------------------------------------------------------------------

/** @param {any} field @returns {boolean} whether it was one of those that mean more than one field of the job */
function takeSpecial(field) {
  const job = draft.job;
  if (field.name === "held_out") {
    draft.heldOut = field.value;
    if (field.value === "split") delete job.eval_dataset_id;
  } else if (field.name === "when") {
    draft.when = field.value;
    for (const name of ["start", "not_before", "after_job_id", "after_failure"]) delete job[name];
    if (["off_peak", "manual"].includes(field.value)) job.start = field.value;
  } else if (field.id === "not-before") {
    if (field.value) job.not_before = new Date(field.value).toISOString();
    else delete job.not_before;
  } else if (field.id === "after-job") {
    if (field.value) job.after_job_id = Number(field.value);
    else delete job.after_job_id;
  } else if (field.id === "after-success") {
    if (field.checked) job.after_failure = false;
    else delete job.after_failure;
  } else if (field.id === "model-name") {
    if (field.value.trim()) job.model = field.value.trim();
    else delete job.model;
  } else if (field.dataset.byHand) {
    const group = field.dataset.byHand;
    draft.byHand = draft.byHand.filter((/** @type {string} */ one) => one !== group);
    if (field.checked) draft.byHand.push(group);
    else fields.giveUpGroup(group, job.hyperparameters);
  } else return false;
  return true;
}

root.addEventListener("input", (/** @type {Event} */ event) => {
  const field = /** @type {any} */ (event.target), setting = /** @type {HTMLElement | null} */ (field.closest("[data-setting]"));
  if (field.form?.getAttribute("role") === "search") return;
  if (setting) fields.take(setting, draft.job.hyperparameters);
  else if (!takeSpecial(field)) {
    if (!field.dataset.field) return;
    takeField(field);
  }
  changed();
  if (["dataset_id", "model"].includes(field.dataset.field) || field.id === "model-name") compareSoon();
});

document.addEventListener("click", event => {
  const target = /** @type {HTMLElement} */ (event.target);
  const link = /** @type {HTMLElement | null} */ (target.closest("[data-go]")), button = /** @type {HTMLElement | null} */ (target.closest("[data-start], [data-reset], [data-collect], button[data-view]"));
  if (link && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    go(link.dataset.go ?? step);
    if (link.dataset.to) goToField(link.dataset.to);
  }
  if (!button || button === root) return;
  if (button.matches("[data-start]")) void startTraining(button);
  else if (button.dataset.collect) void collect(button);
  else if (button.dataset.view) setView(button.dataset.view);
  else if (button.matches("[data-reset]")) {
    const setting = /** @type {HTMLElement} */ (button.closest("[data-setting]"));
    fields.giveUp(setting, draft.job.hyperparameters);
    /** @type {HTMLElement} */ (setting.querySelector("[data-control]")).focus();
    changed();
  }
});

window.addEventListener("popstate", () => go(location.hash.slice(1) || "dataset"));
document.addEventListener("htmx:after:swap", () => showDraft());
$("start-over").addEventListener("click", () => {
  forget();
  location.assign("/jobs/new");
});

/** The model that suits this machine is chosen until somebody chooses another. */
function suggest() {
  const suggested = controls().find(field => field.dataset.suggested !== undefined);
  if (!draft.job.model && suggested) draft.job.model = suggested.value;
}

function begin() {
  let view = "steps";
  try { view = localStorage.getItem(VIEW) === "page" ? "page" : "steps"; } catch { /* forbidden */ }
  if (restored) {
    $("draft-text").textContent = `This is your draft from ${ago(new Date(draft.at))}.`;
    $("draft-note").hidden = false;
  } else if (start.from) {
    $("draft-text").textContent = `A copy of job ${start.from}. Change what you like; the other job stays as it is.`;
    $("draft-note").hidden = false;
  }
  if (!start.job.method) draft.job.method = methodFor(shapeChosen(), draft.job.method);
  suggest();
  showDraft();
  startTabs();
  for (const one of steps) seen.observe(one);
  step = location.hash.slice(1) || (draft.job.dataset_id && start.from ? "review" : "dataset");
  const named = Boolean(location.hash);
  setView(view);
  if (named && view === "page") $(step).scrollIntoView({ block: "start" });
  void replan();
  void compareMethods();
}

begin();

// @ts-check
/** The dashboard: the machine live, and the sample data at one click. Everything else is refreshed by its markup. */
import { call, errorOf, upload } from "../api.js";
import { $, attempt, setText } from "../dom.js";
import { showMachine } from "../machine.js";
import { toastNext } from "../toast.js";

showMachine(samples => {
  const tile = $("use-now"), at = samples.times.length - 1;
  const use = samples.gpus.length ? samples.gpus[0].utilization_percent[at] ?? 0 : samples.cpu_percent[at];
  if (tile) setText(tile, `${Math.round(use)} %`);
});

/** The sample as a dataset: the one that is there, else a new one. @param {string} name @returns {Promise<number>} its id */
async function sampleDataset(name) {
  const known = await call(`/datasets/?q=${encodeURIComponent(name)}&limit=50`);
  const there = known.items.find((/** @type {any} */ dataset) => dataset.name === name && dataset.status !== "failed");
  if (there) return there.id;
  const answer = await fetch("/sample.jsonl");
  if (!answer.ok) throw errorOf(answer.status, await answer.text());
  const file = await answer.blob();
  const made = await upload("PUT", `/datasets/upload?file_name=${name}.jsonl&name=${name}`, file, () => {});
  return made.id;
}

/** @param {number} id */
async function whenReady(id) {
  for (;;) {
    const dataset = await call(`/datasets/${id}`);
    if (dataset.status === "failed") throw Object.assign(new Error(dataset.error?.message ?? "The sample could not be read."), dataset.error);
    if (dataset.status === "ready") return;
    await new Promise(done => setTimeout(done, 250));
  }
}

document.addEventListener("click", event => {
  const button = /** @type {HTMLElement | null} */ (/** @type {Element} */ (event.target).closest("#use-sample"));
  if (!button) return;
  void attempt(button, $("sample-problem"), async () => {
    const name = button.dataset.name ?? "", said = button.querySelector("span");
    if (said) said.textContent = "Bringing it in…";
    try {
      const id = await sampleDataset(name);
      await whenReady(id);
      toastNext("Sample data added.");
      location.href = `/jobs/new?dataset=${id}`;
    } finally {
      if (said) said.textContent = "Use the sample data";
    }
  });
});

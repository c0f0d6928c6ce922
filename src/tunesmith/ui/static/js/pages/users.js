// @ts-check
/** Users: links are shown once, and one dialog serves the quotas of all. */
import { clearProblems } from "../actions.js";
import { $ } from "../dom.js";
import { startShownOnce } from "../shown_once.js";

const GB = 1e9;

/** @param {any} user as in the row's markup */
function openQuotas(user) {
  const dialog = $("quotas"), form = /** @type {HTMLFormElement} */ (dialog.querySelector("form"));
  clearProblems(form);
  form.dataset.action = `PATCH /api/v1/users/${user.id}`;
  $("quotas-title").textContent = `Quotas of ${user.name}`;
  $("quota-gb").value = user.quota_storage_bytes == null ? "" : String(user.quota_storage_bytes / GB);
  $("quota-bytes").value = user.quota_storage_bytes ?? "";
  $("field-quota_jobs").value = user.quota_jobs ?? "";
  $("field-quota_gpu_hours").value = user.quota_gpu_hours ?? "";
  dialog.showModal();
}

document.addEventListener("click", event => {
  const button = /** @type {HTMLElement | null} */ (/** @type {Element} */ (event.target).closest("[data-quotas]"));
  if (button) openQuotas(JSON.parse(button.dataset.quotas ?? ""));
});
$("quota-gb")?.addEventListener("input", () => {
  const text = $("quota-gb").value.trim();
  $("quota-bytes").value = text ? String(Math.round(Number(text) * GB)) : "";
});
$("invite").addEventListener("close", () => $("invite").querySelector("form").reset());
startShownOnce();

// @ts-check
/** The pages of the registry: which alias a form moves, sending a model, and checking the files. */
import { call, upload } from "../api.js";
import { announce } from "../dom.js";
import { showProblems, clearProblems } from "../actions.js";
import { toastError, toastNext } from "../toast.js";

/** @template {HTMLElement} T @param {string} id @returns {T | null} */
const find = id => /** @type {T | null} */ (document.getElementById(id));

const aliasForm = find("alias-form");
find("alias-name")?.addEventListener("input", event => {
  const alias = /** @type {HTMLInputElement} */ (event.target).value.trim();
  if (aliasForm) aliasForm.dataset.action = `PUT ${aliasForm.dataset.aliasOf}/aliases/${encodeURIComponent(alias || "-")}`;
});

const edit = find("edit-name"), nameForm = find("name-form");
edit?.addEventListener("click", () => {
  if (!nameForm) return;
  nameForm.hidden = !nameForm.hidden;
  edit.setAttribute("aria-expanded", String(!nameForm.hidden));
  if (!nameForm.hidden) /** @type {HTMLElement | null} */ (nameForm.querySelector("textarea"))?.focus();
});

const verify = find("verify");
verify?.addEventListener("click", async () => {
  const place = find("verified");
  if (!place || verify.getAttribute("aria-busy") === "true") return;
  verify.setAttribute("aria-busy", "true");
  place.textContent = "Reading …";
  try {
    const told = await call("/api/v1/registry/verify", { method: "POST", json: { refs: verify.dataset.ref ? [verify.dataset.ref] : [] } });
    const bad = told.damaged.flatMap((/** @type {any} */ one) => verify.dataset.ref ? one.files : `${one.ref} (${one.files.join(", ")})`);
    place.textContent = bad.length ? `Damaged: ${bad.join(", ")}. tunesmith registry verify --repair may put it right.` : `All ${told.files} files are as they were registered.`;
  } catch (error) {
    place.textContent = "";
    toastError(error);
  } finally {
    verify.removeAttribute("aria-busy");
  }
});

const sendForm = /** @type {HTMLFormElement | null} */ (find("upload-form"));
sendForm?.addEventListener("submit", async event => {
  event.preventDefault();
  const file = /** @type {HTMLInputElement | null} */ (find("upload-file"))?.files?.[0], bar = /** @type {HTMLProgressElement | null} */ (find("upload-progress"));
  if (!file || sendForm.getAttribute("aria-busy") === "true") return;
  clearProblems(sendForm);
  const asked = new URLSearchParams({ file_name: file.name });
  for (const [name, value] of new FormData(sendForm)) if (typeof value === "string" && value.trim()) asked.set(name, value.trim());
  sendForm.setAttribute("aria-busy", "true");
  if (bar) bar.hidden = false;
  announce("Sending the model.");
  try {
    const made = await upload("PUT", `/registry/import/upload?${asked}`, file, sent => { if (bar) bar.value = sent / file.size; }, undefined, { "Content-Type": "application/octet-stream" });
    toastNext(`Registered ${made.ref}.`);
    location.href = `/registry/${encodeURIComponent(made.name)}`;
  } catch (error) {
    showProblems(sendForm, error);
  } finally {
    sendForm.removeAttribute("aria-busy");
    if (bar) bar.hidden = true;
  }
});

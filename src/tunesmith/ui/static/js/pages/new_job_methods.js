// @ts-check
/** Which methods take the rows that were chosen: said on their cards, and the usual one for such rows is chosen. */

/** @returns {HTMLInputElement[]} */
const methods = () => [...document.querySelectorAll('input[name="method"]')].map(input => /** @type {HTMLInputElement} */ (input));

/** @param {HTMLInputElement} method @param {string} shape of the rows; empty: not known */
const takes = (method, shape) => !shape || !method.dataset.shapes || method.dataset.shapes.split(" ").includes(shape);

/** The method `chosen` where it takes such rows, else the first that does and can run here. @param {string} shape @param {string} chosen @returns {string} */
export function methodFor(shape, chosen) {
  const now = methods().find(method => method.value === chosen);
  if (now && takes(now, shape)) return chosen;
  const particular = methods().filter(method => !method.disabled && method.dataset.shapes && takes(method, shape));
  return (particular[0] ?? methods().find(method => !method.disabled && method.dataset.modality === "table" && shape === "tabular"))?.value ?? chosen;
}

/** On each card that cannot use such rows, say so. @param {string} shape */
export function showFit(shape) {
  for (const method of methods()) {
    const place = method.closest("label")?.querySelector("[data-fit]"), fits = takes(method, shape);
    if (place) place.textContent = fits ? "" : `Not for rows of shape ${shape.replaceAll("_", " ")}.`;
    method.closest("label")?.toggleAttribute("data-unfit", !fits);
  }
}

/** Whether a method starts from a model. @param {string} name */
export const needsModel = name => methods().find(method => method.value === name)?.dataset.needsModel !== undefined;

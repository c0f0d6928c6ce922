// @ts-check
/** Which column holds what: a shape, and a column for each of its roles. */
import { make } from "./dom.js";

/** @typedef {Record<string, {words: string, roles: string[], required: string[]}>} Shapes */
/** @typedef {{shape: string, mapping: Record<string, string>}} Reading */

let count = 0;

/** @param {string} label @param {[string, string][]} options @param {string} value @param {string} [hint] */
function select(label, options, value, hint = "") {
  const id = `mapping-${++count}`, box = make("select", undefined, { class: "select", id });
  for (const [key, text] of options) box.append(make("option", text, { value: key }));
  box.value = value;
  const field = make("div", undefined, { class: "field" }, [make("label", label, { for: id }), box]);
  if (hint) {
    box.setAttribute("aria-describedby", `${id}-hint`);
    field.append(make("p", hint, { class: "hint", id: `${id}-hint` }));
  }
  return { field, box };
}

/**
 * Controls to choose with; `onChange` gets every choice that is whole.
 * @param {Shapes} shapes
 * @param {string[]} columns
 * @param {Reading} now
 * @param {string} type of the dataset: media keep their shape
 * @param {(reading: Reading) => void} onChange
 */
export function mappingControls(shapes, columns, now, type, onChange) {
  const place = make("div", undefined, { class: "mapping" });
  const media = ["image", "audio", "video"];
  const names = Object.keys(shapes).filter(name => media.includes(name) ? name === type : !media.includes(type));

  /** @param {Reading} reading */
  function draw(reading) {
    const { field, box } = select("Each row is", names.map(name => [name, shapes[name].words]), reading.shape);
    /** @type {Record<string, HTMLSelectElement>} */
    const roles = {};
    const told = () => ({ shape: box.value, mapping: Object.fromEntries(Object.entries(roles).filter(([, one]) => one.value).map(([role, one]) => [role, one.value])) });
    box.addEventListener("change", () => {
      const shape = box.value, same = (/** @type {string} */ role) => reading.mapping[role] ?? columns.find(column => column.toLowerCase() === role) ?? "";
      const next = { shape, mapping: Object.fromEntries(shapes[shape].roles.map(role => [role, same(role)]).filter(([, column]) => column)) };
      draw(next);
      place.querySelector("select")?.focus();
      onChange(next);
    });
    place.replaceChildren(field);
    for (const role of shapes[reading.shape].roles) {
      const needed = shapes[reading.shape].required.includes(role);
      const made = select(`Column of the ${role}`, [["", needed ? "Choose a column" : "None"], ...columns.map(column => /** @type {[string, string]} */ ([column, column]))], reading.mapping[role] ?? "", needed ? "" : "May be left out.");
      if (needed && !reading.mapping[role]) made.box.setAttribute("aria-invalid", "true");
      made.box.addEventListener("change", () => { made.box.setAttribute("aria-invalid", String(needed && !made.box.value)); onChange(told()); });
      roles[role] = made.box;
      place.append(made.field);
    }
  }
  draw(now);
  return place;
}

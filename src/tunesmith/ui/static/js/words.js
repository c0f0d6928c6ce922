// @ts-check
/** Numbers, sizes and times as people read them; the same as ui/words.py. */

const NONE = "–", SIZES = ["B", "kB", "MB", "GB", "TB", "PB"];
/** @type {[number, string][]} */
const AGO = [[86400 * 365, "y"], [86400 * 30, "mo"], [86400, "d"], [3600, "h"], [60, "min"]];

/** `1.2 GB` @param {number | null | undefined} count */
export function bytes(count) {
  if (count == null) return NONE;
  let value = count, unit = 0;
  while (Math.abs(value) >= 999.5 && unit < SIZES.length - 1) { value /= 1000; unit++; }
  return `${value.toFixed(unit === 0 || Math.abs(value) >= 99.95 ? 0 : 1)} ${SIZES[unit]}`;
}

/** `12,345` @param {number | null | undefined} value */
export const number = value => value == null ? NONE : value.toLocaleString("en", { maximumFractionDigits: 2 });

/** @param {number | null | undefined} value @param {number} [digits] significant ones */
export function signif(value, digits = 4) {
  if (value == null) return NONE;
  const size = Math.abs(value);
  if (!Number.isFinite(value) || size >= 1e15 || size < 1e-8) return String(Number(value.toPrecision(digits)));
  return value.toLocaleString("en", { maximumSignificantDigits: digits });
}

/** `42 %` of 0.42 @param {number | null | undefined} share @param {number} [digits] */
export const percent = (share, digits = 0) => share == null ? NONE : `${(share * 100).toFixed(digits)} %`;

/** `3 min 20 s` @param {number | null | undefined} seconds */
export function duration(seconds) {
  if (seconds == null) return NONE;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60), hours = Math.floor(whole / 3600), days = Math.floor(whole / 86400);
  if (days) return `${days} d ${hours % 24} h`;
  if (hours) return `${hours} h ${minutes % 60} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

/** `3 min ago` @param {Date} moment */
export function ago(moment) {
  const seconds = (Date.now() - moment.getTime()) / 1000;
  for (const [size, unit] of AGO) {
    if (Math.abs(seconds) >= size) {
      const text = `${Math.floor(Math.abs(seconds) / size)} ${unit}`;
      return seconds > 0 ? `${text} ago` : `in ${text}`;
    }
  }
  return "just now";
}

/** `1 row`, `2 rows` @param {number} count @param {string} noun */
export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

const EXACT = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" }), ZONE = new Intl.DateTimeFormat("en-GB", { timeZoneName: "short" });

/** `2026-01-31 14:05:09 CET`, on the clock of who looks @param {Date} moment */
export const exact = moment => `${EXACT.format(moment)} ${ZONE.formatToParts(moment).find(part => part.type === "timeZoneName")?.value ?? ""}`.trim();

/** `14:05:09` @param {number} seconds since 1970 */
export const timeOfDay = seconds => SECOND.format(new Date(seconds * 1000));

const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const MINUTE = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const SECOND = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** The marks of a time axis, with the day where a new one begins. @param {number[]} moments seconds since 1970 @param {number} every seconds between two of them */
export function clock(moments, every) {
  let before = "";
  return moments.map(moment => {
    const date = new Date(moment * 1000), day = DAY.format(date);
    if (every >= 86_400) return day;
    const text = (every < 60 ? SECOND : MINUTE).format(date), isNew = day !== before;
    before = day;
    return isNew ? `${text}\n${day}` : text;
  });
}

// @ts-check
/** The REST API: every failure is an `ApiError` that says what to do. */

export const API = "/api/v1";

export class ApiError extends Error {
  /** @param {string} message @param {string} [hint] @param {any[]} [details] @param {number} [status] of the answer; 0 when there was none @param {string} [code] */
  constructor(message, hint = "", details = [], status = 0, code = "") {
    super(message);
    this.hint = hint;
    this.details = details;
    this.status = status;
    this.code = code;
  }
}

/** The server's own words; a proxy's page has none. @param {number} status @param {string} text */
export function errorOf(status, text) {
  try {
    const body = JSON.parse(text);
    if (body.message) return new ApiError(body.message, body.hint, body.details, status, body.error);
    if (body.error?.message) return new ApiError(body.error.message, "", body.error.details, status, body.error.code); // as OpenAI says it, below /v1
  } catch { /* not from Tunesmith */ }
  return new ApiError(`The server answered with status ${status} and no reason.`, "Try again. If a proxy stands before Tunesmith, look at its limits and its log.", [], status);
}

/** What a change brings along, so that no other site can make one in this browser's name. @returns {Record<string, string>} */
function proof() {
  const token = document.querySelector('meta[name="csrf-token"]')?.getAttribute("content");
  return token ? { "X-CSRF-Token": token } : {};
}

/** The login has ended: log in again and come back here. */
function logInAgain() {
  if (!document.body.dataset.may) return; // nobody was logged in
  location.href = `/login?next=${encodeURIComponent(location.pathname + location.search)}`;
}

/** @param {string} path below /api/v1, or whole @returns {string} */
export const address = path => /^\/(api|v1)\//.test(path) ? path : API + path;

/** `json` is sent as the body, by POST unless `method` says otherwise. @typedef {RequestInit & {json?: unknown}} Options */

/** @param {string} path @param {Options} [options] @returns {Promise<Response>} Rejects with `ApiError`, or with what aborted it. */
export async function request(path, options = {}) {
  const { json, ...init } = options;
  if (json !== undefined) Object.assign(init, { method: init.method ?? "POST", headers: { "Content-Type": "application/json", ...init.headers }, body: JSON.stringify(json) });
  let answer;
  try {
    answer = await fetch(address(path), { ...init, headers: { ...proof(), .../** @type {Record<string, string>} */ (init.headers) } });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError("The server cannot be reached.", "Start it with “tunesmith up”, then try again.");
  }
  if (answer.status === 401) logInAgain();
  if (!answer.ok) throw errorOf(answer.status, await answer.text());
  return answer;
}

/** @param {string} path @param {Options} [options] @returns {Promise<any>} the answer's JSON; null when it is empty */
export async function call(path, options) {
  const answer = await request(path, options), text = await answer.text();
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    throw errorOf(answer.status, text);
  }
}

/** @param {string} path @param {unknown} [body] */
export const post = (path, body = {}) => call(path, { json: body });

/** @param {string} path */
export const remove = path => call(path, { method: "DELETE" });

/** Server-sent events of a POST, as they come. @param {string} path @param {unknown} body @param {AbortSignal} signal @param {(headers: Headers) => void} [onHeaders] @returns {AsyncGenerator<{kind: string | undefined, data: any}>} */
export async function* stream(path, body, signal, onHeaders) {
  const answer = await request(path, { json: body, signal });
  onHeaders?.(answer.headers);
  const reader = /** @type {ReadableStream<BufferSource>} */ (answer.body).pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(error => {
      throw signal.aborted ? error : new ApiError("The connection to the server broke.", "Try again.");
    });
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const data = /^data: (.*)$/m.exec(block)?.[1];
      if (data && data !== "[DONE]") yield { kind: /^event: (.*)$/m.exec(block)?.[1], data: JSON.parse(data) };
    }
  }
}

/** Send a file with progress, which `fetch` cannot tell. @param {string} method @param {string} path @param {Blob} file @param {(sent: number) => void} onSent bytes @param {AbortSignal} [signal] @param {Record<string, string>} [headers] @returns {Promise<any>} the answer's JSON */
export function upload(method, path, file, onSent, signal, headers = {}) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open(method, address(path));
    for (const [name, value] of Object.entries({ ...proof(), ...headers })) sending.setRequestHeader(name, value);
    sending.upload.onprogress = event => onSent(event.loaded);
    sending.onload = () => {
      try {
        if (sending.status < 300) return resolve(sending.responseText ? JSON.parse(sending.responseText) : null);
      } catch { /* a page instead of an answer */ }
      if (sending.status === 401) logInAgain();
      reject(errorOf(sending.status, sending.responseText));
    };
    sending.onerror = () => reject(new ApiError("The upload was cut off.", "See that the server runs and that the file is still there, then go on."));
    sending.onabort = () => reject(new DOMException("The upload was stopped.", "AbortError"));
    signal?.addEventListener("abort", () => sending.abort());
    sending.send(file);
  });
}

// @ts-check
/** Starts the page's parts and keeps them in step with the server. */
import { API } from "./api.js";
import { refreshModels, startChat } from "./chat.js";
import { loadCurve, startCurve, takePoint } from "./curve.js";
import { refreshDatasets, startDatasets } from "./datasets.js";
import { $, clearProblem, showProblem } from "./dom.js";
import { refreshJobs, startJobs, touchJob } from "./jobs.js";

/** What happens without a word on the stream (another server, the command line) is seen after at most so long, in ms. */
const LOOK_EVERY = 10_000;

/** @type {EventSource | undefined} */
let source;

async function refresh() {
  try {
    await Promise.all([refreshDatasets(), refreshJobs(), refreshModels()]);
    clearProblem($("problem"));
  } catch (error) {
    showProblem($("problem"), error);
  }
}

/** All jobs on one connection: a browser has only a few for each host. After every (re)connection all is read anew. */
function listen() {
  source = new EventSource(`${API}/jobs/stream`);
  source.addEventListener("open", () => { void refresh(); loadCurve().catch(error => showProblem($("job-problem"), error)); });
  const take = (/** @type {MessageEvent} */ message) => {
    const { job_id, event } = JSON.parse(message.data);
    if (event.type === "step" || event.type === "evaluation") takePoint(job_id, event);
    if (event.type === "status" && event.new === "completed") refreshModels().catch(error => showProblem($("problem"), error));
    touchJob(job_id);
  };
  for (const type of ["step", "evaluation", "status", "phase"]) source.addEventListener(type, take);
}

/** A page in the background holds no connection. */
function seen() {
  source?.close();
  if (!document.hidden) listen();
}

startDatasets();
startChat();
startCurve();
startJobs().catch(error => showProblem($("problem"), error));
document.addEventListener("visibilitychange", seen);
seen();
setInterval(() => {
  if (document.hidden) return;
  if (source?.readyState === EventSource.CLOSED) seen(); // a proxy answered in the server's place: the browser gave up
  else void refresh();
}, LOOK_EVERY);

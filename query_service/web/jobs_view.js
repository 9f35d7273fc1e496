// The jobs of the service: the list, live progress of those that run, and what a person can start or stop.

import { call, get, post, query } from "./api.js";
import { $ } from "./dom.js";
import { readEvents } from "./events.js";
import { loadFailures, startFailures } from "./failures.js";
import { jobCard } from "./job_card.js";
import { plural } from "./format.js";
import { clearError, showError, toast } from "./notices.js";
import { state } from "./state.js";

const LISTED = 50;
const STREAMS = 3; // a browser opens six connections to one host; the others are seen by the list's next look
const LOOK_MILLISECONDS = 4000;
const SENT_FILES = 200; // of one request; the service takes 1,000
const SENT_BYTES = 32 * 1024 * 1024; // half of what it takes unless it is set otherwise
const followed = new Map(); // job id -> AbortController
let timer = 0;
let afterJob = () => {};
let lookFailed = false;
let ended = null; // ids of jobs known to be over; not yet looked

const act = {
  cancel: (id) => doing(() => post(`v1/jobs/${id}/cancel`), `Job ${id} is being cancelled.`),
  retry: (id) => doing(() => post(`v1/jobs/${id}/retry-failed`), "Trying the failed pictures again."),
};

// `onIndexed` is called when a job has ended: the collection holds other pictures then.
export function startJobs(onIndexed) {
  afterJob = onIndexed;
  $("#job-form").addEventListener("submit", (event) => { event.preventDefault(); submit(event.target); });
  $("#upload").addEventListener("change", (event) => {
    addPictures([...event.target.files]);
    event.target.value = "";
  });
  startFailures(look);
}

export function showJobs(visible) {
  clearTimeout(timer);
  if (visible) return look();
  for (const controller of followed.values()) controller.abort();
  followed.clear();
}

async function look() {
  clearTimeout(timer);
  try {
    const { collection } = state;
    const jobs = await get(query("v1/jobs", { collection, limit: LISTED }));
    if (collection !== state.collection) return look(); // another one was chosen meanwhile
    render(jobs);
    noteEnded(jobs);
    jobs.filter((job) => !job.is_over).slice(0, STREAMS).forEach(follow);
    if (collection) await loadFailures();
    if (lookFailed) clearError(); // other errors stay until somebody has read them
    lookFailed = false;
  } catch (error) { lookFailed = true; showError(error, look); }
  if (state.view === "jobs") { clearTimeout(timer); timer = setTimeout(look, LOOK_MILLISECONDS); }
}

// A job has ended since the last look: the collection holds other pictures now.
function noteEnded(jobs) {
  const over = jobs.filter((job) => job.is_over).map((job) => job.id);
  if (ended && over.some((id) => !ended.has(id))) afterJob();
  ended = new Set([...(ended ?? []), ...over]);
}

function render(jobs) {
  const focused = document.activeElement?.closest("[data-job]")?.dataset.job;
  $("#jobs").replaceChildren(...jobs.map((job) => jobCard(job, act)));
  $("#no-jobs").hidden = jobs.length > 0;
  if (focused) $(`[data-job="${focused}"] button`)?.focus({ preventScroll: true });
}

async function follow({ id }) {
  if (followed.has(id)) return;
  const controller = new AbortController();
  followed.set(id, controller);
  try {
    await readEvents(`v1/jobs/${id}/events`, controller.signal, (name, data) => { if (name === "progress") show(JSON.parse(data)); });
    if (!controller.signal.aborted) look();
  } catch (error) {
    if (error.name !== "AbortError") setTimeout(look, LOOK_MILLISECONDS); // the list shows it meanwhile
  } finally {
    followed.delete(id);
  }
}

function show(job) {
  $(`[data-job="${job.id}"]`)?.replaceWith(jobCard(job, act));
}

async function submit(form) {
  const { source, include, exclude, id_prefix, mirror } = Object.fromEntries(new FormData(form));
  const patterns = (text) => text.split(",").map((one) => one.trim()).filter(Boolean);
  const body = { source: source.trim(), ...(state.collection && { collection: state.collection }), include: patterns(include), exclude: patterns(exclude), id_prefix, mirror: mirror === "on" };
  const button = $("button", form);
  button.disabled = true; // the answer comes when all is listed
  if (await doing(() => post("v1/jobs", body), "The job is under way.")) form.reset();
  button.disabled = false;
}

// Many or large pictures go in several requests, each below the limit of one.
export async function addPictures(files) {
  const pictures = files.filter((file) => !file.type || file.type.startsWith("image/"));
  if (pictures.length < files.length) toast(`${plural(files.length - pictures.length, "file")} left out: no picture.`);
  for (let first = 0, next; first < pictures.length; first = next) {
    for (next = first + 1; next < pictures.length && next - first < SENT_FILES && bytesOf(pictures.slice(first, next + 1)) <= SENT_BYTES;) next += 1;
    if (!(await sendPictures(pictures.slice(first, next), `${next} of ${plural(pictures.length, "picture")} sent.`))) return;
  }
}

const bytesOf = (files) => files.reduce((sum, file) => sum + file.size, 0);

function sendPictures(files, text) {
  const form = new FormData();
  for (const file of files) form.append("image", file, file.name);
  if (state.collection) form.append("collection", state.collection);
  return doing(() => call("v1/images", { method: "POST", form }), text);
}

async function doing(action, text) {
  try {
    await action();
    clearError();
    toast(text);
    await look();
    return true;
  } catch (error) {
    showError(error);
    return false;
  }
}

// One job: what it does, how far it is, and what can be done about it.

import { el } from "./dom.js";
import { address, count, duration, when } from "./format.js";

const COUNTS = ["indexed", "reused", "refreshed", "unchanged", "deleted", "removed", "failed"];
const GOOD = ["indexed", "reused", "refreshed", "unchanged", "deleted"];

// `act` has cancel(id) and retry(id).
export function jobCard(job, act) {
  return el("li", { class: "job", data: { job: job.id, state: job.state } },
    el("div", { class: "heading" },
      el("h3", {}, el("span", { class: "kind" }, `#${job.id} ${job.kind}`), " ", el("span", { class: "source", title: job.source }, address(job.source))),
      el("span", { class: `pill ${job.state}` }, job.state)),
    progress(job),
    el("p", { class: "line" }, lineOf(job)),
    el("p", { class: "note" }, `started ${when(job.started_at)}`),
    buttonOf(job, act));
}

function buttonOf(job, act) {
  if (job.is_over && !job.counts.failed) return null;
  const [label, click] = job.is_over ? [`Retry ${count(job.counts.failed)} failed`, () => act.retry(job.id)] : ["Cancel", () => act.cancel(job.id)];
  return el("div", { class: "row" }, el("button", { class: "quiet", on: { click } }, label));
}

const done = (counts) => GOOD.reduce((sum, name) => sum + (counts[name] ?? 0), 0);

function progress({ id, counts, state }) {
  const all = Math.max(1, counts.listed ?? 0);
  const bar = (kind, number) => { const part = el("span", { class: kind }); part.style.setProperty("--part", number / all); return part; };
  return el("div", { class: "progress", role: "progressbar", "aria-label": `Job ${id}`, "aria-valuemin": "0", "aria-valuemax": `${all}`,
    "aria-valuenow": `${done(counts) + counts.failed}`, "aria-valuetext": state }, bar("good", done(counts)), bar("bad", counts.failed ?? 0));
}

function lineOf(job) {
  if (job.kind === "index" && job.state === "failed" && !job.counts.listed) return "The source could not be listed: nothing of it was queued.";
  const told = COUNTS.filter((name) => job.counts[name]).map((name) => `${count(job.counts[name])} ${name}`);
  const parts = [`${count(done(job.counts) + job.counts.failed)} of ${count(job.counts.listed)} images`, ...told];
  if (job.rate) parts.push(`${job.rate.toFixed(1)} images/s`);
  if (!job.is_over && job.eta_seconds !== null) parts.push(`about ${duration(job.eta_seconds)} left`);
  return parts.join(" · ");
}

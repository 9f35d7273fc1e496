// The discreet line below the results: which model, generation and change answered, and where the time went.

import { $, el } from "./dom.js";
import { count, milliseconds } from "./format.js";

const STAGES = ["queued", "embed", "search", "metadata"];

export function showProvenance({ provenance: from, roundTrip }) {
  const seconds = from.stage_seconds;
  const known = STAGES.filter((stage) => stage in seconds);
  const elsewhere = Math.max(0, roundTrip - known.reduce((sum, stage) => sum + seconds[stage], 0));
  const stages = known.map((stage) => `${stage} ${milliseconds(seconds[stage])}`);
  const facts = [
    ["Time", bar([...known.map((stage) => [stage, seconds[stage]]), ["way", elsewhere]]),
      [...stages, `total ${milliseconds(seconds.total)}`, `there and back ${milliseconds(roundTrip)}`].join(" · ")],
    ["Searched", `${count(from.images)} images`],
    ["Model", from.model.name],
    ["Generation", `${from.generation_id}`],
    ["Change", count(from.seq)],
    ["Worker", from.worker],
  ];
  $("#provenance").replaceChildren(el("dl", { tabIndex: 0, "aria-label": "Where this answer comes from" },
    facts.map(([name, ...parts]) => el("div", {}, el("dt", {}, name), el("dd", {}, ...parts)))));
}

// One line as long as the whole wait, each stage as long as its part of it; the words beside it say the same.
function bar(parts) {
  return el("span", { class: "stages", "aria-hidden": "true" }, parts.map(([stage, seconds]) => {
    const part = el("span", { class: stage, title: `${stage === "way" ? "on the way" : stage} ${milliseconds(seconds)}` });
    part.style.setProperty("--part", seconds);
    return part;
  }));
}

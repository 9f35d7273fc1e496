// The discreet line below the results: which model, generation and change answered, and where the time went.

import { $, el } from "./dom.js";
import { count, milliseconds } from "./format.js";

const STAGES = ["queued", "embed", "search", "metadata", "total"];

export function showProvenance({ provenance: from, roundTrip }) {
  const stages = STAGES.filter((stage) => stage in from.stage_seconds).map((stage) => `${stage} ${milliseconds(from.stage_seconds[stage])}`);
  const facts = [
    ["Model", from.model.name],
    ["Generation", `${from.generation_id}`],
    ["Change", count(from.seq)],
    ["Searched", `${count(from.images)} images`],
    ["Time", [...stages, `there and back ${milliseconds(roundTrip)}`].join(" · ")],
    ["Worker", from.worker],
  ];
  $("#provenance").replaceChildren(el("dl", { tabIndex: 0, "aria-label": "Where this answer comes from" }, facts.map(([name, text]) => el("div", {}, el("dt", {}, name), el("dd", {}, text)))));
}

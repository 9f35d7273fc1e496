// One result in full: a large picture, all attributes, every action, and how the rerank steps treated it.

import { $, el, icon } from "./dom.js";
import { address, score, shortName, value } from "./format.js";
import { showError } from "./notices.js";
import { PAGE, explained } from "./search.js";
import { isAsking, state } from "./state.js";
import { openOriginal, thumbnail } from "./thumbnails.js";

const LARGE_SIDE = 512;

export function showDetail(result, act) {
  const dialog = $("#detail");
  dialog.onclick = (event) => { if (event.target === dialog && outside(event, dialog)) dialog.close(); };
  const { image_id: id } = result;
  const then = (action) => () => { dialog.close(); action(id); };
  const explanation = el("div", { id: "explanation", "aria-live": "polite" });
  dialog.replaceChildren(
    el("button", { class: "icon-button corner", "aria-label": "Close", on: { click: () => dialog.close() } }, icon("close")),
    el("div", { class: "large" }, thumbnail(id, state.collection, { size: LARGE_SIDE, eager: true })),
    el("div", { class: "about" },
      el("h2", { id: "detail-title" }, shortName(id)),
      facts(result),
      el("div", { class: "row" },
        button("plus", "More like this", then(act.more), "primary"),
        button("minus", "Less like this", then(act.less)),
        button("search", "Only this", then(act.only)),
        button("open", "Original", () => openOriginal(id, state.collection).catch(showError)),
        button("hide", "Exclude", then(act.exclude)),
        result.rank && isAsking() ? button("info", "Explain", () => explain(result, explanation)) : null,
      ),
      explanation,
    ),
  );
  dialog.showModal();
}

// On the backdrop; the dialog's own padding is within.
function outside({ clientX: x, clientY: y }, dialog) {
  const { left, right, top, bottom } = dialog.getBoundingClientRect();
  return x < left || x > right || y < top || y > bottom;
}

const button = (symbol, label, click, kind = "quiet") => el("button", { class: kind, on: { click } }, icon(symbol), label);

function facts(result) {
  const known = [["id", result.image_id], ["from", address(result.source_uri ?? "")]];
  if (result.rank) known.push(["rank", `${result.rank}`], ["score", score(result.score)], ["distance", score(result.distance)]);
  const pairs = [...known, ...Object.entries(result.attributes ?? {})].filter(([, one]) => one !== undefined && one !== "");
  return el("dl", { class: "facts" }, pairs.map(([key, one]) => el("div", {}, el("dt", {}, key), el("dd", {}, value(one)))));
}

async function explain(result, place) {
  place.replaceChildren(el("p", { class: "note" }, "Asking again, step by step …"));
  try {
    const offset = Math.floor((result.rank - 1) / PAGE) * PAGE;
    const { explanation } = await explained(offset, PAGE);
    place.replaceChildren(...steps(explanation, explanation?.results?.[result.image_id]));
  } catch (error) {
    place.replaceChildren(el("p", { class: "note" }, error.message));
  }
}

function steps(explanation, traces) {
  if (!traces?.length) return [el("p", { class: "note" }, "The index has changed meanwhile: this result is no longer on this page.")];
  const rank = (number) => (number === null || number === undefined ? "–" : `${number}`);
  const rows = traces.map((trace) => el("tr", {}, el("th", { scope: "row" }, trace.step),
    ...[score(trace.score_before), score(trace.score_after), rank(trace.rank_before), rank(trace.rank_after)].map((text) => el("td", {}, text)),
    el("td", {}, `${explanation.dropped?.[trace.step] ?? 0}`)));
  const heads = ["Step", "Score before", "after", "Rank before", "after", "Dropped"].map((text) => el("th", { scope: "col" }, text));
  return [el("h3", {}, "How it came here"), el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows)))];
}

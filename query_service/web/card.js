// One result: the picture in its right proportions within a square, score, rank, name, attributes and actions.

import { el, iconButton } from "./dom.js";
import { score, shortName, value } from "./format.js";
import { nameLine } from "./name_line.js";
import { openOriginal, thumbnail } from "./thumbnails.js";
import { showError } from "./notices.js";

const SHOWN_ATTRIBUTES = 6;

// `act` has more(id), less(id), exclude(id), details(result).
export function card(result, collection, act, { ranked = true } = {}) {
  const { image_id: id } = result;
  const article = el("article", { tabIndex: -1, data: { id }, "aria-label": labelOf(result, ranked) },
    el("div", { class: "frame", on: { click: () => act.details(result) } },
      thumbnail(id, collection),
      ranked ? el("span", { class: "rank" }, `${result.rank}`) : null,
      attributeList(result.attributes ?? {}),
      actions(result, collection, act, ranked),
    ),
    ranked ? scoreBar(result.score) : null,
    nameLine(id),
  );
  return el("li", {}, article);
}

export const skeletons = (count) => Array.from({ length: count }, () => el("li", { class: "skeleton", "aria-hidden": "true" }, el("div", { class: "frame" }), el("div", { class: "line" })));

const labelOf = (result, ranked) => (ranked ? `${result.rank}. ${result.image_id}, score ${score(result.score)}` : result.image_id);

function scoreBar(number) {
  const bar = el("span", { class: "filled" });
  bar.style.setProperty("--part", Math.min(1, Math.max(0, number)));
  return el("div", { class: "score" }, el("span", { class: "bar", "aria-hidden": "true" }, bar), el("span", { class: "number" }, score(number)));
}

function attributeList(attributes) {
  const pairs = Object.entries(attributes).slice(0, SHOWN_ATTRIBUTES);
  if (!pairs.length) return null;
  return el("dl", { class: "attributes" }, pairs.map(([key, one]) => el("div", {}, el("dt", {}, key), el("dd", {}, value(one)))));
}

function actions(result, collection, act, ranked) {
  const { image_id: id } = result;
  const name = shortName(id);
  const then = (action) => (event) => { event.stopPropagation(); action(); };
  const quiet = { tabIndex: -1 }; // by keyboard the card itself has keys for these
  return el("div", { class: "actions" },
    iconButton("plus", `More like ${name}`, then(() => act.more(id)), quiet),
    ranked ? iconButton("minus", `Less like ${name}`, then(() => act.less(id)), quiet) : null,
    iconButton("open", `Open the original of ${name}`, then(() => openOriginal(id, collection).catch(showError)), quiet),
    ranked ? iconButton("hide", `Exclude ${name}`, then(() => act.exclude(id)), quiet) : null,
    iconButton("info", `Details of ${name}`, then(() => act.details(result)), quiet),
  );
}

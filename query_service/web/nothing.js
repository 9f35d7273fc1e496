// What stands in the place of results when there are none.

import { $, el } from "./dom.js";
import { hasFilters, isAsking, state, update } from "./state.js";

export const hideNothing = () => { $("#nothing").hidden = true; };

export const nothingIndexed = () => show(state.collection ? "This collection is empty" : "Nothing is indexed yet",
  "Add a folder, an S3 prefix or pictures from this device: each is searchable as soon as it is indexed.", "Add pictures", { view: "jobs" });

export function nothingFound() {
  const causes = [state.minScore > 0 && "a lower score", hasFilters() && "fewer filters", state.exclude.length > 0 && "fewer exclusions"].filter(Boolean);
  show("Nothing found", causes.length ? `Try ${causes.join(" or ")}.` : "The collection has no other pictures.");
}

export const noAnswer = () => isAsking()
  ? show("No results", "Change what is asked above, or start over.", "Start over", { parts: [], exclude: [] })
  : show("No pictures", "They come once the service answers.");

function show(heading, text, label, change) {
  const button = label && el("button", { class: "primary", on: { click: () => update(change) } }, label);
  $("#nothing").replaceChildren(el("h2", {}, heading), el("p", {}, text), ...(button ? [button] : []));
  $("#nothing").hidden = false;
}

// What stands in the place of results when there are none: why, and what may help.

import { $, el } from "./dom.js";
import { hasFilters, isAsking, state, update } from "./state.js";

export const hideNothing = () => { $("#nothing").hidden = true; };

export function nothingIndexed() {
  show(state.collection ? "This collection is empty" : "Nothing is indexed yet",
    "Add a folder, an S3 prefix or pictures from this device: each is searchable as soon as it is indexed.",
    button("Add pictures", () => update({ view: "jobs" })));
}

export function nothingFound() {
  const causes = [state.minScore > 0 && "a lower score", hasFilters() && "fewer filters", state.exclude.length > 0 && "fewer exclusions"].filter(Boolean);
  show("Nothing found", causes.length ? `Try ${causes.join(" or ")}.` : "The collection has no other pictures.");
}

// The banner says what went wrong; here is what is left to do.
export function noAnswer(error) {
  if (!isAsking()) show("No pictures to begin with", "They are shown as soon as the service answers.");
  else if (error.retryable) show("No results yet", "The search stays as it is above, and can be asked again.");
  else show("No results", "The search could not be answered as it stands above: change what it asks with, or start over.",
    button("Start over", () => update({ parts: [], exclude: [] })));
}

function show(heading, text, ...more) {
  $("#nothing").replaceChildren(el("h2", {}, heading), el("p", {}, text), ...more);
  $("#nothing").hidden = false;
}

const button = (text, click) => el("button", { type: "button", class: "primary", on: { click } }, text);

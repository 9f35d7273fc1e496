// The pictures of the collection that could not be indexed, why, and another try.

import { get, post, query } from "./api.js";
import { $, el } from "./dom.js";
import { plural, when } from "./format.js";
import { showError, toast } from "./notices.js";
import { state } from "./state.js";

const PAGE = 50;
let last = null;

export function startFailures(afterRetry) {
  $("#retry-failures").addEventListener("click", async () => {
    try {
      await post(query("v1/failures/retry", { collection: state.collection }));
      toast("Trying the failed pictures again.");
      afterRetry();
    } catch (error) { showError(error); }
  });
  $("#more-failures").addEventListener("click", () => loadFailures({ after: last }));
}

export async function loadFailures({ after = null } = {}) {
  $("#failures-title").textContent = `Pictures of ${state.collection} that failed`;
  const found = await get(query("v1/failures", { collection: state.collection, limit: PAGE, after }));
  const failures = Array.isArray(found) ? found : found.failures;
  const items = failures.map(failure);
  if (after) $("#failures").append(...items);
  else $("#failures").replaceChildren(...items);
  last = failures.at(-1)?.image_id ?? null;
  $("#failures-section").hidden = !$("#failures").childElementCount;
  $("#more-failures").hidden = failures.length < PAGE;
}

const failure = ({ image_id, reason, message, attempts, last_at }) => el("li", {},
  el("p", { class: "name", title: image_id }, image_id), el("span", { class: "pill failed" }, reason),
  el("p", { class: "message" }, message), el("p", { class: "note" }, `${plural(attempts, "attempt")} · ${when(last_at)}`));

// What went wrong and what to do: one banner above the page, with a retry where one can help, and short toasts.

import { $, el, icon } from "./dom.js";

const OTHER_PICTURE = "Try another picture, as JPEG, PNG or WebP.";
const ADVICE = {
  unreachable: "Check that the service runs and that you are online.",
  busy: "Many searches are waiting.",
  deadline_exceeded: "No query worker answered in time. Check that one is running.",
  text_not_supported: "The model of this collection reads pictures only: search with a picture instead.",
  unknown_id: "It may have been removed: take it out of the search.",
  unknown_collection: "Choose another collection above.",
  access_refused: "Ask for a key that is allowed to do this.",
  not_found: "Check the address.",
  too_large: "Try a smaller picture.",
  too_many_pixels: "Try a smaller picture.",
  corrupt: OTHER_PICTURE,
  empty: OTHER_PICTURE,
  undecodable: OTHER_PICTURE,
  unsupported_format: OTHER_PICTURE,
};
const LONGEST_PAUSE_SECONDS = 30;
let timer = 0;
let attempt = 0;

// Shows the error until the next success; what can be retried is, after a growing pause.
export function showError(error, retry) {
  if (error.name === "AbortError") return;
  clearTimeout(timer);
  const banner = $("#banner");
  const again = retry && error.retryable;
  const pause = again ? pauseBefore(error) : 0;
  const advice = ADVICE[error.reason] ?? "";
  banner.replaceChildren(
    icon("alert"),
    el("p", {}, el("strong", {}, sentence(error.message)), advice ? ` ${advice}` : "", again ? ` Trying again in ${pause} s.` : ""),
    ...(again ? [el("button", { class: "quiet", on: { click: () => now(retry) } }, "Retry now")] : []),
    el("button", { class: "icon-button", "aria-label": "Dismiss this message", on: { click: clearError } }, icon("close")),
  );
  banner.hidden = false;
  banner.dataset.reason = error.reason ?? "error";
  if (again) timer = setTimeout(now, pause * 1000, retry);
}

export function clearError() {
  clearTimeout(timer);
  attempt = 0;
  $("#banner").hidden = true;
}

let fading = 0;
export function toast(text) {
  clearTimeout(fading);
  const place = $("#toast");
  place.textContent = text;
  place.hidden = false;
  fading = setTimeout(() => { place.hidden = true; }, 4000);
}

function now(retry) {
  clearTimeout(timer);
  retry();
}

function pauseBefore(error) {
  attempt += 1;
  return Math.min(LONGEST_PAUSE_SECONDS, Math.max(error.retryAfter, 2 ** attempt));
}

function sentence(text) {
  const words = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(words) ? words : `${words}.`;
}

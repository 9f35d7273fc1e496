// The API key: asked for when the server wants one, kept in sessionStorage, gone when the tab closes.

import { $ } from "./dom.js";

const NAME = "visual-search-key";
let asking = null;

export const currentKey = () => sessionStorage.getItem(NAME) ?? "";

export const keyHeaders = () => (currentKey() ? { Authorization: `Bearer ${currentKey()}` } : {});

// Opens the dialog once, however many requests were refused together; resolves to whether a key was given.
export function askForKey(message) {
  asking ??= opened(message).finally(() => { asking = null; });
  return asking;
}

export function forgetKey() {
  sessionStorage.removeItem(NAME);
}

function opened(message) {
  const dialog = $("#key-dialog");
  const field = $("#key-field");
  $("#key-reason").textContent = message;
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  field.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const key = field.value.trim();
      const given = dialog.returnValue === "use" && key !== "";
      if (given) sessionStorage.setItem(NAME, key);
      resolve(given);
    }, { once: true });
  });
}

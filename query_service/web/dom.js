// Making and finding elements. Every text goes in as a text node: there is no innerHTML anywhere on this page.

export const $ = (selector, within = document) => within.querySelector(selector);

// el("button", { class: "x", on: { click }, "aria-label": "…" }, "text", otherElement)
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// One of the icons in icons.svg, hidden from screen readers: the element around it carries the label.
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `static/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

export function iconButton(name, label, click, properties = {}) {
  return el("button", { type: "button", class: "icon-button", "aria-label": label, title: label, on: { click }, ...properties }, icon(name));
}

// Does what takes the focused element away; with a keyboard's focus, the first of the selectors that is there gets it.
export function keepFocus(first, second, action) {
  const byKeyboard = document.activeElement?.matches(":focus-visible");
  action();
  if (byKeyboard) ($(first) ?? $(second)).focus();
}

// Waits until nothing has called for that long, then calls once with the last arguments.
export function debounced(milliseconds, action) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...args), milliseconds);
  };
}

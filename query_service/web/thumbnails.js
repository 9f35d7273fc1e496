// Pictures from the API. Without a key the browser loads them lazily by itself; with one they are fetched when near
// the screen, because an <img> cannot send a key.

import { originalAddress, send, thumbnailAddress } from "./api.js";
import { el } from "./dom.js";
import { currentKey } from "./session_key.js";

const SIDE = 256;
const PICTURES = /^image\/(jpeg|png|webp|gif|bmp|tiff|avif)$/; // never SVG or HTML: a blob has this page's origin
const waiting = new WeakMap();
const near = new IntersectionObserver(loadSeen, { rootMargin: "400px" });

export function thumbnail(imageId, collection, { size = SIDE, eager = false } = {}) {
  const address = thumbnailAddress(imageId, collection, size);
  const image = el("img", { alt: "", width: SIDE, height: SIDE, decoding: "async", loading: eager ? "eager" : "lazy", draggable: false });
  image.addEventListener("load", () => image.classList.add("loaded"));
  image.addEventListener("error", () => image.classList.add("missing"));
  if (currentKey()) {
    waiting.set(image, address);
    near.observe(image);
  } else image.src = address;
  return image;
}

// Opens the stored original in a new tab.
export async function openOriginal(imageId, collection) {
  const address = originalAddress(imageId, collection);
  if (!currentKey()) return void window.open(address, "_blank", "noopener");
  const blob = await (await send(address)).blob();
  const safe = new Blob([blob], { type: PICTURES.test(blob.type) ? blob.type : "application/octet-stream" });
  const link = URL.createObjectURL(safe);
  window.open(link, "_blank", "noopener");
  setTimeout(() => URL.revokeObjectURL(link), 60_000);
}

function loadSeen(entries) {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    fetchInto(target, waiting.get(target));
  }
}

async function fetchInto(image, address) {
  try {
    const link = URL.createObjectURL(await (await send(address)).blob());
    image.addEventListener("load", () => URL.revokeObjectURL(link), { once: true });
    image.src = link;
  } catch {
    image.classList.add("missing"); // the card stays usable without its picture
  }
}

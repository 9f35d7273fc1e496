// Pictures that come from outside: dropped, pasted, chosen, photographed. Each becomes a part of the query.

import { $ } from "./dom.js";
import { toast } from "./notices.js";
import { addPart, state, uploads } from "./state.js";

const LARGE_BYTES = 1_500_000; // above it a picture is made smaller here: models look at some 224 pixels a side
const LONGEST_SIDE = 1280;
let number = 0;

// `addToCollection(files)` takes what is dropped on the jobs: there, pictures are to be found, not to search with.
export function listenForPictures(addToCollection) {
  for (const id of ["#picture", "#camera"]) $(id).addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = ""; // the same picture may be chosen again
  });
  document.addEventListener("paste", (event) => {
    if (state.view === "search" && event.clipboardData.files.length) { event.preventDefault(); take(event.clipboardData.files); }
  });
  listenForDrops(addToCollection);
}

function listenForDrops(addToCollection) {
  const hint = $("#drop-hint");
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => { if (hasFiles(event)) showHint(hint); });
  document.addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) hint.hidden = true; });
  document.addEventListener("drop", (event) => {
    hint.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    const files = [...event.dataTransfer.files];
    if (state.view === "search") take(files);
    else addToCollection(files);
  });
}

function showHint(hint) {
  hint.hidden = false;
  $("p", hint).textContent = state.view === "search" ? "Drop the picture to search with it" : `Drop pictures to add them to ${state.collection || "a new collection"}`;
}

async function take(files) {
  for (const file of files) {
    if (file.type && !file.type.startsWith("image/")) { toast(`${file.name || "This"} is not a picture.`); continue; }
    const blob = await smaller(file);
    const key = `upload-${number++}`;
    uploads.set(key, { blob, name: file.name || "pasted picture", preview: URL.createObjectURL(blob) });
    if (!addPart({ kind: "upload", value: key, weight: 1 })) toast("A search takes at most 16 parts.");
  }
}

// A large photo as a JPEG of at most 1280 pixels a side, upright; anything the browser cannot read stays as it is.
async function smaller(file) {
  if (file.size <= LARGE_BYTES) return file;
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = new OffscreenCanvas(Math.round(bitmap.width * scale), Math.round(bitmap.height * scale));
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff"; // the service, too, puts transparency on white
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
  } catch {
    return file;
  }
}

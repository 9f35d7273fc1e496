// How numbers, times, names and values read for people. Knows no elements.

const whole = new Intl.NumberFormat("en");

export const count = (number) => whole.format(number);
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
export const score = (number) => (Number.isFinite(number) ? number.toFixed(3) : "–");
export const milliseconds = (seconds) => `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;

export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function when(text) {
  const time = new Date(text);
  return Number.isNaN(time.getTime()) ? "" : time.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

export const shortName = (imageId) => imageId.split("/").filter(Boolean).pop() ?? imageId;

// A stored address as people write it: file addresses are percent-encoded.
export function address(uri) {
  try {
    return uri.startsWith("file://") ? decodeURIComponent(uri.slice("file://".length)) : uri;
  } catch {
    return uri;
  }
}

export const value = (one) => (Array.isArray(one) ? one.join(", ") : one === null ? "–" : String(one));

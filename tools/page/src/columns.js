// Columns as codes 0..255 by row, and the colours of codes. 255 stands for "no value", 254 for what is grey: the rarest
// labels of a text column, zeros of a column of numbers.

import { load, meta } from "./data.js";

export const GREY = 254;
export const NONE = 255;
const cache = new Map();

export function theme(dark) {
  return dark ? meta.themes.dark : meta.themes.light;
}

export function rgb(colour) {
  return [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
}

/** Uint8Array by row. */
export function codesOf(column) {
  if (!cache.has(column.data)) cache.set(column.data, load(column.data));
  return cache.get(column.data);
}

function onRamp(ramp, share) {
  const at = Math.min(Math.max(share, 0), 1) * (ramp.length - 1);
  const low = Math.min(Math.floor(at), ramp.length - 2);
  const [a, b] = [rgb(ramp[low]), rgb(ramp[low + 1])];
  return a.map((v, i) => Math.round(v + (b[i] - v) * (at - low)));
}

/** The colour of a code of a text column, as #rrggbb. */
export function colourOfCode(code, colours) {
  return code < colours.palette.length ? colours.palette[code] : colours.other;
}

/** 256 x rgba bytes. hidden: Set of codes. */
export function paletteOf(column, dark, hidden) {
  const colours = theme(dark);
  const bytes = new Uint8Array(1024);
  for (let code = 0; code < 256; code++) {
    const number = column?.kind === "numbers" && code < GREY;
    const colour = number ? onRamp(colours.ramp, code / (GREY - 1)) : rgb(colourOfCode(code, colours));
    const grey = !number && code >= colours.palette.length;
    bytes.set([...colour, hidden.has(code) ? 0 : grey ? 128 : 255], 4 * code);
  }
  return bytes;
}

/** 64 x rgba bytes: from few rows to many. */
export function rampBytes(dark) {
  return Uint8Array.from(Array.from({ length: 64 }, (_, i) => [...onRamp(theme(dark).ramp, i / 63), 255]).flat());
}

/** What is said of a row with this code. */
export function valueOf(column, code) {
  if (code === NONE) return "–";
  if (column.kind === "labels") return code === GREY ? "one of the rarer" : column.labels[code];
  if (code === GREY) return "0";
  return short(column.low + (code / (GREY - 1)) * (column.high - column.low));
}

export function short(number) {
  return Number(number.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
}

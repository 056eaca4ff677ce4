// The rows as typed arrays. Drawn in an order in which every beginning is an even sample of all rows: row i·step mod n.

import { loadOnce, meta } from "./data.js";

export const SELECTED = 1;
export const MISSING = 2;
const GOLDEN = 0.6180339887498949;

export const n = meta.rows;
const step = coprimeStep(n);

function gcd(a, b) {
  while (b) [a, b] = [b, a % b];
  return a;
}

function coprimeStep(count) {
  let candidate = Math.max(1, Math.round(count * GOLDEN));
  while (gcd(candidate, count) !== 1) candidate++;
  return candidate;
}

export let x, y; // Uint16Array by row: 0..65535 across meta.box
export const flags = new Uint8Array(n); // by row

/** values by row -> a new array in the order of drawing. */
export function inDrawingOrder(values, out = new values.constructor(n)) {
  for (let i = 0, row = 0; i < n; i++) {
    out[i] = values[row];
    row += step;
    if (row >= n) row -= n;
  }
  return out;
}

/** The rows that are drawn first. */
export function sample(count) {
  return Uint32Array.from({ length: Math.min(count, n) }, (_, i) => (i * step) % n);
}

export async function loadPoints() {
  const [low, high, missing] = await Promise.all(["low", "high", "missing"].map(loadOnce));
  x = new Uint16Array(n);
  y = new Uint16Array(n);
  for (let i = 0; i < n; i++) {
    x[i] = low[i] | (high[i] << 8);
    y[i] = low[n + i] | (high[n + i] << 8);
  }
  for (const row of new Uint32Array(missing.buffer)) flags[row] = MISSING;
}

/** Cells of rows, so that the nearest one is found without looking at all. */
export class Grid {
  constructor() {
    this.bits = Math.max(1, Math.min(10, Math.ceil(Math.log2(n / 4) / 2)));
    const side = 1 << this.bits;
    const shift = 16 - this.bits;
    const starts = new Uint32Array(side * side + 1);
    for (let i = 0; i < n; i++) starts[((y[i] >> shift) << this.bits) + (x[i] >> shift) + 1]++;
    for (let c = 0; c < side * side; c++) starts[c + 1] += starts[c];
    const next = starts.slice();
    this.rows = new Uint32Array(n);
    for (let i = 0; i < n; i++) this.rows[next[((y[i] >> shift) << this.bits) + (x[i] >> shift)]++] = i;
    this.starts = starts;
  }

  /** The row nearest to (px, py), both 0..65535, within `radius` and for which accept(row) holds, or -1. */
  nearest(px, py, radius, accept) {
    const shift = 16 - this.bits;
    const cell = (v) => Math.max(0, Math.min((1 << this.bits) - 1, Math.floor(v) >> shift));
    let best = -1;
    let least = radius * radius;
    for (let cy = cell(Math.max(0, py - radius)); cy <= cell(py + radius); cy++) {
      for (let cx = cell(Math.max(0, px - radius)); cx <= cell(px + radius); cx++) {
        const c = (cy << this.bits) + cx;
        for (let j = this.starts[c]; j < this.starts[c + 1]; j++) {
          const row = this.rows[j];
          const distance = (x[row] - px) ** 2 + (y[row] - py) ** 2;
          if (distance <= least && accept(row)) [best, least] = [row, distance];
        }
      }
    }
    return best;
  }
}

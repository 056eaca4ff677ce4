// Rows by number or by a part of their name.

import { meta, namesText } from "./data.js";
import { n } from "./points.js";

const AHEAD = 6; // pages that are on their way while one is looked through

/** Rows that `text` means, the row of that number first. going() is asked on the way: false gives up, with null. */
export async function search(text, going, progress) {
  const wanted = text.trim().toLowerCase();
  const rows = [];
  if (!wanted) return rows;
  const number = /^#?\d[\d,]*$/.test(wanted) ? Number(wanted.replace(/[#,]/g, "")) : -1;
  if (number >= 0 && number < n) rows.push(number);
  if (!meta.names || wanted.startsWith("#")) return rows;
  const nPages = Math.ceil(n / meta.pageRows);
  const coming = [];
  for (let page = 0; page < nPages; page++) {
    while (coming.length < AHEAD && page + coming.length < nPages) coming.push(namesText(page + coming.length));
    const text = (await coming.shift()).toLowerCase();
    if (!going()) return null;
    if (page % 32 === 31) progress(page / nPages);
    if (!text.includes(wanted)) continue;
    text.split("\n").forEach((name, i) => {
      const row = page * meta.pageRows + i;
      if (row !== number && name.includes(wanted)) rows.push(row);
    });
  }
  return rows;
}

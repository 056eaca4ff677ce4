// Rows by number or by a part of their name.

import { meta, namesPage } from "./data.js";
import { n } from "./points.js";

/** Rows that `text` means, the row of that number first. going() is asked on the way: false gives up, with null. */
export async function search(text, going, progress) {
  const wanted = text.trim().toLowerCase();
  const rows = [];
  if (!wanted) return rows;
  const number = /^#?\d[\d,]*$/.test(wanted) ? Number(wanted.replace(/[#,]/g, "")) : -1;
  if (number >= 0 && number < n) rows.push(number);
  if (!meta.names || wanted.startsWith("#")) return rows;
  const nPages = Math.ceil(n / meta.pageRows);
  for (let page = 0; page < nPages; page++) {
    const names = await namesPage(page);
    if (!going()) return null;
    for (let i = 0; i < names.length; i++) {
      const row = page * meta.pageRows + i;
      if (row !== number && names[i].toLowerCase().includes(wanted)) rows.push(row);
    }
    if (page % 32 === 31) progress(page / nPages);
  }
  return rows;
}

// The page around the map. Names and labels are somebody else's text: they go in as text, never as markup.

import { codesOf, colourOfCode, GREY, NONE, short, theme, valueOf } from "./columns.js";
import { featuresOf, meta, nameOf } from "./data.js";
import { n } from "./points.js";

const LISTED = 200;
export const $ = (id) => document.getElementById(id);
const count = (number) => number.toLocaleString("en");

export function element(kind, text = "", className = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function fillHeading() {
  document.title = `${meta.title} · streamumap`;
  $("title").textContent = meta.title;
  $("facts").textContent = meta.facts;
  $("notes").textContent = meta.notes.join(" ");
  $("search").placeholder = meta.names ? "Name or row number" : "Row number";
  const chooser = $("columns");
  chooser.append(new Option("density", "-1"));
  meta.columns.forEach((column, i) => chooser.append(new Option(column.name, String(i))));
  $("labels-row").hidden = meta.labels.length === 0;
}

export function applyTheme(dark) {
  const colours = theme(dark);
  const style = document.documentElement.style;
  style.colorScheme = dark ? "dark" : "light";
  for (const name of ["page", "ink"]) style.setProperty(`--${name}`, colours[name]);
  style.setProperty("--faint", colours.faint_ink);
  style.setProperty("--ramp", `linear-gradient(to right, ${colours.ramp.join(", ")})`);
}

/** hidden: Set of codes that are not drawn; changed() after a click. */
export function drawLegend(column, dark, hidden, changed) {
  const legend = $("legend");
  legend.replaceChildren();
  if (!column || column.kind === "numbers") {
    const [low, high] = column ? column.ends : ["few rows", "many"];
    const ends = element("div", "", "ends");
    ends.append(element("span", low), element("span", high));
    legend.append(element("div", "", "bar"), ends);
  }
  if (!column) return;
  const entries = column.counts.map((rows, code) => [code, column.kind === "labels" ? column.labels[code] : "", rows]);
  const shown = column.kind === "labels" ? entries : [];
  if (column.grey) shown.push([GREY, column.kind === "labels" ? `${count(column.rarer)} rarer` : "zero", column.grey]);
  if (column.none) shown.push([NONE, column.kind === "labels" ? "no label" : "no value", column.none]);
  for (const [code, label, rows] of shown) {
    const entry = element("button", "", "entry");
    entry.type = "button";
    entry.setAttribute("aria-pressed", String(!hidden.has(code)));
    entry.title = `${label}: click to hide or show, double-click to show nothing else`;
    const dot = element("span", "", "dot");
    dot.style.background = colourOfCode(code, theme(dark));
    entry.append(dot, element("span", label, "label"), element("span", count(rows), "count"));
    entry.addEventListener("click", () => {
      if (!hidden.delete(code)) hidden.add(code);
      changed();
    });
    entry.addEventListener("dblclick", () => {
      const others = shown.map(([other]) => other).filter((other) => other !== code);
      const alone = others.every((other) => hidden.has(other));
      hidden.clear();
      if (!alone) others.forEach((other) => hidden.add(other));
      changed();
    });
    legend.append(entry);
  }
}

/** What is known of a row, as [name or null, lines]. */
export async function describe(row) {
  const [name, features, ...codes] = await Promise.all([nameOf(row), featuresOf(row), ...meta.columns.map(codesOf)]);
  const lines = meta.columns.map((column, i) => [column.name, valueOf(column, codes[i][row])]);
  if (features.length) lines.push(["features", features.map(([id, value]) => `${id} (${short(value)})`).join(", ")]);
  return [name, lines];
}

export async function showTip(row, px, py, width, height, current) {
  const tip = $("tip");
  if (row < 0) {
    tip.hidden = true;
    return;
  }
  const [name, lines] = await describe(row);
  if (!current()) return;
  const list = element("dl");
  for (const [term, value] of [["row", count(row)], ...lines]) list.append(element("dt", term), element("dd", value));
  tip.replaceChildren(...(name ? [element("strong", name)] : []), list);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(px + 14, width - box.width - 4))}px`;
  tip.style.top = `${py + 18 + box.height < height ? py + 18 : Math.max(4, py - box.height - 12)}px`;
}

/** The rows that are selected, a button each for the first ones. */
export async function showSelection(rows, what, current, goTo) {
  $("selection").hidden = rows === null;
  if (rows === null) return;
  $("selected").textContent = `${count(rows.length)} of ${count(n)} rows ${what}`;
  $("csv").disabled = rows.length === 0;
  const names = await Promise.all(rows.slice(0, LISTED).map(nameOf));
  if (!current()) return;
  const items = names.map((name, i) => {
    const button = element("button", name ?? `row ${count(rows[i])}`, "item");
    button.type = "button";
    button.title = `row ${count(rows[i])}`;
    button.addEventListener("click", () => goTo(rows[i]));
    return button;
  });
  if (rows.length > LISTED) items.push(element("p", `and ${count(rows.length - LISTED)} more, all of them in the CSV`, "faint"));
  $("found").replaceChildren(...items);
}

/** row_id and, where there are names, name: quoted, and never a formula to a spreadsheet. */
export async function csvOf(rows) {
  if (!meta.names) return `row_id\n${rows.join("\n")}\n`;
  const lines = ["row_id,name"];
  for (const row of rows) {
    const name = await nameOf(row);
    const safe = /^[=+\-@\t\r]/.test(name) ? `'${name}` : name;
    lines.push(`${row},"${safe.replaceAll('"', '""')}"`);
  }
  return `${lines.join("\n")}\n`;
}

export function download(text, name) {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

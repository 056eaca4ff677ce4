// The straight line: load, draw, then wait for the hand of the reader.

import { codesOf, paletteOf, rampBytes } from "./columns.js";
import { meta } from "./data.js";
import { Renderer } from "./gl.js";
import { $, applyTheme, csvOf, download, drawLegend, fillHeading, showSelection, showTip } from "./panel.js";
import { flags, Grid, loadPoints, MISSING, n, SELECTED } from "./points.js";
import { search } from "./search.js";
import { View } from "./view.js";

const NEAR_PX = 8;
const NEAR_ZOOM = 12;
const CSV_NAME = `${meta.title.replace(/[^\w.-]+/g, "_")}-selection.csv`;

const state = {
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
  column: meta.columns[meta.first] ?? null,
  codes: null,
  hidden: new Set(),
  selected: null, // rows, ascending, or null
  ringed: -1,
  labels: true,
  asked: 0, // counts questions, so that late answers to earlier ones are dropped
};
let renderer, view, grid;
let waiting = false;

const shown = (row) => !(flags[row] & MISSING) && !(state.codes && state.hidden.has(state.codes[row]));

function redraw() {
  const layered = state.selected !== null ? 1 : state.column?.layered ? 2 : 0;
  const above = state.selected?.length ?? n - (state.column?.grey ?? 0) - (state.column?.none ?? 0);
  renderer.setLook(view.look(state.dark, state.column === null, layered, above));
  overlay();
  schedule();
}

function overlay() {
  view.drawOver(state.dark, state.ringed, state.labels);
}

function schedule() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const whole = renderer.frame();
    document.body.dataset.drawn = whole ? "all" : "some";
    if (!whole) schedule();
  });
}

function resize() {
  const { clientWidth, clientHeight } = $("map");
  const ratio = Math.min(devicePixelRatio || 1, 2);
  view.resize(clientWidth, clientHeight, ratio);
  renderer.resize(Math.round(clientWidth * ratio), Math.round(clientHeight * ratio));
  redraw();
}

function recolour() {
  applyTheme(state.dark);
  renderer.setPalette(paletteOf(state.column, state.dark, state.hidden), rampBytes(state.dark));
  drawLegend(state.column, state.dark, state.hidden, recolour);
  redraw();
}

async function chooseColumn(number) {
  const column = meta.columns[number] ?? null;
  const codes = column && (await codesOf(column));
  Object.assign(state, { column, codes });
  state.hidden.clear();
  $("columns").value = String(column ? number : -1);
  if (codes) renderer.setCodes(codes);
  recolour();
}

function select(rows, what = "selected") {
  const number = ++state.asked;
  for (const row of state.selected ?? []) flags[row] &= ~SELECTED;
  for (const row of rows ?? []) flags[row] |= SELECTED;
  state.selected = rows;
  renderer.setFlags();
  redraw();
  return showSelection(rows, what, () => number === state.asked, goTo);
}

function goTo(row) {
  ring(row);
  view.flyTo(row, NEAR_ZOOM);
  const [px, py] = view.rowOnScreen(row);
  tipAt(row, px, py);
}

function ring(row) {
  state.ringed = row;
  overlay();
}

function tipAt(row, px, py) {
  return showTip(row, px, py, view.width, view.height, () => state.ringed === row);
}

function hover(event) {
  if (event.buttons && event.pointerType === "mouse") return;
  const [px, py, each] = view.toRow(event.offsetX, event.offsetY);
  const row = grid.nearest(px, py, (NEAR_PX + view.radius()) * each, shown);
  if (row !== state.ringed) ring(row);
  tipAt(row, event.offsetX, event.offsetY);
}

let typing;
function searchSoon() {
  clearTimeout(typing);
  typing = setTimeout(searchNow, 200);
}

async function searchNow() {
  const text = $("search").value;
  if (!text.trim()) return select(null);
  const number = ++state.asked;
  const going = () => number === state.asked;
  $("selection").hidden = false;
  $("selected").textContent = "Searching…";
  const rows = await search(text, going, (share) => {
    $("selected").textContent = `Searching… ${Math.round(100 * share)}%`;
  });
  if (rows && going()) select(rows, `match “${text.trim()}”`);
}

function setLasso(on) {
  view.lassoing = on;
  $("lasso").setAttribute("aria-pressed", String(on));
  $("map").classList.toggle("lasso", on);
}

function setPanel(open) {
  document.body.classList.toggle("closed", !open);
  $("panel-toggle").setAttribute("aria-expanded", String(open));
}

function clear() {
  setLasso(false);
  $("search").value = "";
  select(null);
  ring(-1);
  tipAt(-1);
}

const PAN_PX = 80;
const keys = {
  ArrowLeft: () => view.panBy(PAN_PX, 0),
  ArrowRight: () => view.panBy(-PAN_PX, 0),
  ArrowUp: () => view.panBy(0, PAN_PX),
  ArrowDown: () => view.panBy(0, -PAN_PX),
  "+": () => view.zoomBy(1.5),
  "=": () => view.zoomBy(1.5),
  "-": () => view.zoomBy(1 / 1.5),
  0: () => view.reset(),
  "/": () => $("search").focus(),
  l: () => setLasso(!view.lassoing),
  t: () => $("theme").click(),
  c: () => chooseColumn(((Number($("columns").value) + 2) % (meta.columns.length + 1)) - 1),
  "?": () => $("keys").toggleAttribute("open"),
};

function listen() {
  const map = $("over");
  map.addEventListener("pointermove", hover);
  map.addEventListener("pointerdown", hover);
  map.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "touch") return; // a finger that is lifted leaves what it touched on the screen
    ring(-1);
    tipAt(-1);
  });
  new ResizeObserver(resize).observe($("map"));
  $("columns").addEventListener("change", (event) => chooseColumn(Number(event.target.value)));
  $("search").addEventListener("input", searchSoon);
  $("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && state.selected?.length) goTo(state.selected[0]);
  });
  $("show-labels").addEventListener("change", (event) => {
    state.labels = event.target.checked;
    overlay();
  });
  $("theme").addEventListener("click", () => {
    state.dark = !state.dark;
    recolour();
  });
  $("in").addEventListener("click", keys["+"]);
  $("out").addEventListener("click", keys["-"]);
  $("reset").addEventListener("click", keys[0]);
  $("lasso").addEventListener("click", keys.l);
  $("clear").addEventListener("click", clear);
  $("csv").addEventListener("click", async () => download(await csvOf(state.selected), CSV_NAME));
  $("panel-toggle").addEventListener("click", () => setPanel(document.body.classList.contains("closed")));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      document.activeElement.blur();
      return clear();
    }
    const inField = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (inField || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  $("gl").addEventListener("webglcontextlost", (event) => event.preventDefault());
  $("gl").addEventListener("webglcontextrestored", startDrawing);
}

async function startDrawing() {
  renderer = new Renderer($("gl"));
  if (state.codes) renderer.setCodes(state.codes);
  resize();
  recolour();
}

async function start() {
  applyTheme(state.dark);
  fillHeading();
  setPanel(innerWidth > 700);
  await loadPoints();
  view = new View($("over"), {
    moved: redraw,
    overlay,
    lasso: (polygon) => {
      setLasso(false);
      select(view.rowsWithin(polygon, shown), "in the lasso");
    },
  });
  await startDrawing();
  await chooseColumn(meta.first);
  grid = new Grid();
  listen();
  $("status").hidden = true;
  document.body.dataset.ready = String(Math.round(performance.now()));
  window.streamumap = { state, view, rows: n, get renderer() { return renderer; } }; // for the browser's console, and tests
}

function fail(error) {
  $("status").hidden = false;
  $("status").textContent = error.message;
  document.body.dataset.failed = error.message;
}

addEventListener("unhandledrejection", (event) => fail(event.reason));
start().catch(fail);

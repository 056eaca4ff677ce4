// Where the map lies on the screen, and what is drawn over it: labels, the row under the pointer, the lasso.

import { select } from "d3-selection";
import { zoom, zoomIdentity } from "d3-zoom";
import { meta } from "./data.js";
import { rgb, theme } from "./columns.js";
import { n, sample, x, y } from "./points.js";

const MOST_ZOOM = 400;
const SAMPLE_ROWS = 20_000;
const LABEL_PX = 13;

export class View {
  /** on: moved(), and lasso(polygon) with [[x, y], ...] in pixels of the page. */
  constructor(canvas, on) {
    this.canvas = canvas;
    this.on = on;
    this.drawing = canvas.getContext("2d");
    this.transform = zoomIdentity;
    this.lassoing = false;
    this.polygon = null;
    this.zoom = zoom()
      .scaleExtent([0.5, MOST_ZOOM])
      .filter((event) => !this.lassoing && !event.shiftKey && !event.button && (!event.ctrlKey || event.type === "wheel"))
      .on("zoom", (event) => {
        this.transform = event.transform;
        on.moved();
      });
    this.selection = select(canvas).call(this.zoom);
    this.sample = sample(SAMPLE_ROWS);
    canvas.addEventListener("pointerdown", (event) => this.startLasso(event));
    canvas.addEventListener("pointermove", (event) => this.extendLasso(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => this.endLasso());
  }

  resize(width, height, ratio) {
    Object.assign(this, { width, height, ratio });
    Object.assign(this.canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    this.unit = (Math.min(width, height) / meta.view.side) * meta.box.side; // pixels that the whole box takes at first
    this.left = width / 2 - ((meta.view.left + meta.view.side / 2 - meta.box.left) / meta.box.side) * this.unit;
    this.top = height / 2 - (1 - (meta.view.bottom + meta.view.side / 2 - meta.box.bottom) / meta.box.side) * this.unit;
    this.zoom.extent([[0, 0], [width, height]]);
  }

  /** Pixels of the page of a place given as 0..1 across the box, upward. */
  toScreen(u, v) {
    const { k, x: tx, y: ty } = this.transform;
    return [(u * this.unit + this.left) * k + tx, ((1 - v) * this.unit + this.top) * k + ty];
  }

  /** The reverse, as 0..65535, and how many of these a pixel is. */
  toRow(px, py) {
    const { k, x: tx, y: ty } = this.transform;
    const u = ((px - tx) / k - this.left) / this.unit;
    const v = 1 - ((py - ty) / k - this.top) / this.unit;
    return [u * 65535, v * 65535, 65535 / this.unit / k];
  }

  rowOnScreen(row) {
    return this.toScreen(x[row] / 65535, y[row] / 65535);
  }

  /** Radius in pixels of the page: the discs of so many rows cover a fifth of the map at first, then grow with it. */
  radius(rows = n) {
    const side = Math.min(this.width, this.height);
    const first = Math.min(Math.max(Math.sqrt((side * side) / 5 / Math.PI / Math.max(rows, 1)), 0.5), 0.0035 * side);
    return Math.min(first * this.transform.k ** 0.55, 7);
  }

  /** Discs over a pixel where rows are densest, estimated from an even sample. */
  densest(radius) {
    const cell = Math.max(6, 2 * radius);
    const columns = Math.ceil(this.width / cell);
    const counts = new Float32Array(columns * Math.ceil(this.height / cell));
    for (const row of this.sample) {
      const [px, py] = this.rowOnScreen(row);
      if (px >= 0 && py >= 0 && px < this.width && py < this.height) counts[Math.floor(py / cell) * columns + Math.floor(px / cell)]++;
    }
    const taken = counts.filter((count) => count > 0).sort();
    const many = taken.length ? taken[Math.floor(0.98 * (taken.length - 1))] : 1;
    const each = n / this.sample.length;
    return Math.max(2, (many * each * Math.PI * radius * radius) / (cell * cell));
  }

  /** What the renderer needs; pixels of the screen. above: how many rows lie in the upper layer. */
  look(dark, byDensity, layered, above) {
    const { k, x: tx, y: ty } = this.transform;
    const [u, v] = this.toRow(this.width / 2, this.height / 2);
    const radius = this.radius();
    const colours = theme(dark);
    const rowsInView = n / Math.max(1, k * k * 0.5);
    return {
      centre: [u / 65535, v / 65535],
      scale: [(2 * this.unit * k) / this.width, (2 * this.unit * k) / this.height],
      radius: radius * this.ratio,
      radiusAbove: Math.max(this.radius(4 * above), Math.min(1.5 * radius, 7)) * this.ratio,
      densest: this.densest(radius),
      least: Math.min(Math.max(0.95 - 0.16 * Math.log10(rowsInView / 1000), 0.35), 0.95),
      page: rgb(colours.page).map((c) => c / 255),
      faint: rgb(colours.other).map((c) => c / 255),
      ink: rgb(colours.ink).map((c) => (c / 255) ** 2.2),
      byDensity,
      layered,
    };
  }

  zoomBy(factor) {
    this.selection.call(this.zoom.scaleBy, factor);
  }

  panBy(dx, dy) {
    this.selection.call(this.zoom.translateBy, dx / this.transform.k, dy / this.transform.k);
  }

  reset() {
    this.selection.call(this.zoom.transform, zoomIdentity);
  }

  /** Brings a row into the middle, as near as `k` times the first view at least. */
  flyTo(row, k) {
    const near = Math.max(this.transform.k, k);
    const px = (x[row] / 65535) * this.unit + this.left;
    const py = (1 - y[row] / 65535) * this.unit + this.top;
    const there = zoomIdentity.translate(this.width / 2 - px * near, this.height / 2 - py * near).scale(near);
    this.selection.call(this.zoom.transform, there);
  }

  startLasso(event) {
    if (event.button !== 0 || !(this.lassoing || event.shiftKey)) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.polygon = [[event.offsetX, event.offsetY]];
  }

  extendLasso(event) {
    if (!this.polygon) return;
    this.polygon.push([event.offsetX, event.offsetY]);
    this.on.overlay();
  }

  endLasso() {
    const polygon = this.polygon;
    this.polygon = null;
    if (polygon?.length > 2) this.on.lasso(polygon);
    if (polygon) this.on.overlay();
  }

  /** Rows whose pixel lies in the polygon and for which accept(row) holds. */
  rowsWithin(polygon, accept) {
    const mask = document.createElement("canvas");
    Object.assign(mask, { width: this.width, height: this.height });
    const drawing = mask.getContext("2d", { willReadFrequently: true });
    drawing.beginPath();
    polygon.forEach(([px, py]) => drawing.lineTo(px, py));
    drawing.fill();
    const { data } = drawing.getImageData(0, 0, this.width, this.height);
    const [[ox, oy], [ex, ey]] = [this.toScreen(0, 0), this.toScreen(1, 1)];
    const found = [];
    for (let row = 0; row < n; row++) {
      const px = Math.floor(ox + ((ex - ox) * x[row]) / 65535);
      const py = Math.floor(oy + ((ey - oy) * y[row]) / 65535);
      if (px < 0 || py < 0 || px >= this.width || py >= this.height) continue;
      if (data[4 * (py * this.width + px) + 3] > 127 && accept(row)) found.push(row);
    }
    return found;
  }

  /** Labels, the ring around a row, the lasso. */
  drawOver(dark, ringed, withLabels) {
    const { drawing } = this;
    const colours = theme(dark);
    drawing.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    drawing.clearRect(0, 0, this.width, this.height);
    if (withLabels) this.drawLabels(colours);
    if (ringed >= 0) {
      const [px, py] = this.rowOnScreen(ringed);
      drawing.beginPath();
      drawing.arc(px, py, this.radius() + 4, 0, 2 * Math.PI);
      drawing.lineWidth = 2.5;
      drawing.strokeStyle = colours.ink;
      drawing.stroke();
    }
    if (this.polygon) {
      drawing.beginPath();
      this.polygon.forEach(([px, py]) => drawing.lineTo(px, py));
      drawing.closePath();
      drawing.lineWidth = 1.5;
      drawing.setLineDash([5, 4]);
      drawing.strokeStyle = colours.ink;
      drawing.stroke();
      drawing.setLineDash([]);
    }
  }

  drawLabels(colours) {
    const { drawing } = this;
    const boxes = [];
    drawing.textAlign = "center";
    drawing.textBaseline = "middle";
    drawing.lineJoin = "round";
    for (const label of meta.labels) {
      if (label.level > 0 && this.transform.k < 2) continue;
      const [px, py] = this.toScreen((label.x - meta.box.left) / meta.box.side, (label.y - meta.box.bottom) / meta.box.side);
      drawing.font = `${label.level ? 500 : 650} ${label.level ? LABEL_PX - 1 : LABEL_PX + 1}px system-ui, sans-serif`;
      const half = drawing.measureText(label.text).width / 2 + 6;
      const box = [px - half, py - LABEL_PX, px + half, py + LABEL_PX];
      if (box[2] < 0 || box[3] < 0 || box[0] > this.width || box[1] > this.height) continue;
      if (boxes.some((b) => box[0] < b[2] && box[2] > b[0] && box[1] < b[3] && box[3] > b[1])) continue;
      boxes.push(box);
      drawing.lineWidth = 4;
      drawing.strokeStyle = colours.page;
      drawing.globalAlpha = 0.85;
      drawing.strokeText(label.text, px, py);
      drawing.globalAlpha = 1;
      drawing.fillStyle = colours.ink;
      drawing.fillText(label.text, px, py);
    }
  }
}

// Rows are added up as light in a floating-point target, then shaded like map.png: how dense a place is gives the
// opacity, the mean of the rows' colours the colour. Nothing depends on the order of rows, and a part of them,
// scaled up, looks like all: while the map moves only as many are drawn as fit a frame, the others follow at rest.

import { n, flags, inDrawingOrder, x, y } from "./points.js";

const FRAME_MS = 25;
const REST_MS = 250; // a frame at rest may take this long: nobody waits for it
const LEAST_ROWS = 30_000;

const POINTS_VERTEX = `#version 300 es
layout(location = 0) in vec2 position;
layout(location = 1) in uint code;
layout(location = 2) in uint flags;
uniform vec2 centre, scale;
uniform float radius; // of discs, in pixels
uniform int layer, layered; // layered: 0 one layer, 1 selected rows lie above, 2 rows with a value lie above
uniform vec3 ink;
uniform sampler2D palette;
flat out vec3 light;
void main() {
  vec4 colour = texelFetch(palette, ivec2(int(code), 0), 0);
  bool above = layered == 1 ? (flags & 1u) != 0u : layered == 2 && code < 254u;
  bool shown = colour.a > 0.0 && (flags & 2u) == 0u && (layer == 1) == above;
  light = above && layered == 1 && colour.a < 0.9 ? ink : colour.rgb; // what is grey elsewhere must not be so when selected
  gl_Position = shown ? vec4((position - centre) * scale, 0.0, 1.0) : vec4(2.0, 2.0, 2.0, 1.0);
  gl_PointSize = 2.0 * radius + 1.0;
}`;
const POINTS_FRAGMENT = `#version 300 es
precision highp float;
uniform float radius;
flat in vec3 light;
out vec4 sum;
void main() {
  float away = length(gl_PointCoord - 0.5) * (2.0 * radius + 1.0);
  float weight = clamp(radius + 0.5 - away, 0.0, 1.0);
  sum = vec4(light * weight, weight);
}`;
const SHADE_VERTEX = `#version 300 es
void main() {
  gl_Position = vec4(float(gl_VertexID & 1) * 4.0 - 1.0, float(gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0);
}`;
const SHADE_FRAGMENT = `#version 300 es
precision highp float;
uniform sampler2D others, chosen, ramp;
uniform vec3 page, faint;
uniform float gain, densest, least;
uniform int layered;
uniform bool byDensity;
out vec4 pixel;
vec3 srgb(vec3 c) { // within 0.004; three roots cost less than three powers
  vec3 root = sqrt(c), fourth = sqrt(root);
  return clamp(0.585122381 * root + 0.783140355 * fourth - 0.368262736 * sqrt(fourth), 0.0, 1.0);
}
vec3 over(vec3 below, vec4 sum, float strength, float least, bool grey) {
  if (sum.a <= 0.0) return below;
  float weight = sum.a * gain;
  float dense = min(log2(1.0 + weight) / densest, 1.0);
  float opacity = min(weight, 1.0) * (least + (1.0 - least) * dense) * strength;
  vec3 colour = grey ? faint : byDensity ? texture(ramp, vec2(dense, 0.5)).rgb : srgb(sum.rgb / sum.a);
  return mix(below, colour, opacity);
}
void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  vec3 colour = over(page, texelFetch(others, at, 0), layered == 0 ? 1.0 : 0.45, least, layered == 1);
  if (layered > 0) colour = over(colour, texelFetch(chosen, at, 0), 1.0, 0.95, false);
  pixel = vec4(colour, 1.0);
}`;

function compile(gl, vertex, fragment) {
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
    throw new Error(`WebGL: ${gl.getProgramInfoLog(program)}`);
  }
  const uniforms = {};
  for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i++) {
    const { name } = gl.getActiveUniform(program, i);
    uniforms[name] = gl.getUniformLocation(program, name);
  }
  return { program, uniforms };
}

export class Renderer {
  constructor(canvas) {
    const gl = canvas.getContext("webgl2", { antialias: false, depth: false, preserveDrawingBuffer: true });
    if (!gl) throw new Error("This browser has no WebGL 2, which draws the map; try a current Firefox, Chrome or Safari.");
    const float32 = gl.getExtension("EXT_color_buffer_float") && gl.getExtension("EXT_float_blend");
    if (!float32 && !gl.getExtension("EXT_color_buffer_half_float") && !gl.getExtension("EXT_color_buffer_float")) {
      throw new Error("This browser cannot add up light in floating point; try another one or another computer.");
    }
    this.gl = gl;
    this.format = float32 ? gl.RGBA32F : gl.RGBA16F;
    this.points = compile(gl, POINTS_VERTEX, POINTS_FRAGMENT);
    this.shade = compile(gl, SHADE_VERTEX, SHADE_FRAGMENT);
    this.palette = this.texture();
    this.ramp = this.texture();
    this.layers = [0, 1].map(() => ({ texture: this.texture(), target: gl.createFramebuffer() }));
    this.buffers = [0, 1, 2].map(() => gl.createBuffer());
    this.empty = gl.createVertexArray();
    this.vertices = gl.createVertexArray();
    this.budget = 2 * LEAST_ROWS; // rows of a frame while the map moves
    this.resting = this.budget; // and of one after it
    this.drawn = 0;
    this.look = {};
    this.fillBuffers();
  }

  texture() {
    const { gl } = this;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
    for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, filter, gl.NEAREST);
    return texture;
  }

  fillBuffers() {
    const { gl } = this;
    const positions = new Uint16Array(2 * n);
    const xs = inDrawingOrder(x);
    const ys = inDrawingOrder(y);
    for (let i = 0; i < n; i++) {
      positions[2 * i] = xs[i];
      positions[2 * i + 1] = ys[i];
    }
    gl.bindVertexArray(this.vertices);
    [0, 1, 2].forEach((place) => gl.enableVertexAttribArray(place));
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[0]);
    gl.bufferData(gl.ARRAY_BUFFER, positions, gl.STATIC_DRAW);
    gl.vertexAttribPointer(0, 2, gl.UNSIGNED_SHORT, true, 0, 0);
    this.setCodes(new Uint8Array(n));
    this.setFlags();
  }

  bytes(place, values) {
    const { gl } = this;
    gl.bindVertexArray(this.vertices);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[place]);
    gl.bufferData(gl.ARRAY_BUFFER, inDrawingOrder(values), gl.DYNAMIC_DRAW);
    gl.vertexAttribIPointer(place, 1, gl.UNSIGNED_BYTE, 0, 0);
    this.drawn = 0;
  }

  /** codes: Uint8Array by row, an entry of the palette each. */
  setCodes(codes) {
    this.bytes(1, codes);
  }

  setFlags() {
    this.bytes(2, flags);
  }

  /** rgba: 256 x 4 bytes; alpha 0 hides, 128 says that the colour is a mere grey. ramp: bytes too, from few rows to many. */
  setPalette(rgba, ramp) {
    const { gl } = this;
    gl.bindTexture(gl.TEXTURE_2D, this.palette);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.SRGB8_ALPHA8, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, rgba);
    gl.bindTexture(gl.TEXTURE_2D, this.ramp);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, ramp.length / 4, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, ramp);
    this.drawn = 0;
  }

  resize(width, height) {
    const { gl } = this;
    Object.assign(gl.canvas, { width, height });
    for (const { texture, target } of this.layers) {
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.texImage2D(gl.TEXTURE_2D, 0, this.format, width, height, 0, gl.RGBA, this.format === gl.RGBA32F ? gl.FLOAT : gl.HALF_FLOAT, null);
      gl.bindFramebuffer(gl.FRAMEBUFFER, target);
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
    }
    this.drawn = 0;
  }

  /** look: centre, scale, radius, radiusAbove, densest, least, page, faint, ink (in linear light), byDensity, layered. The next frames draw it anew. */
  setLook(look) {
    this.look = look;
    this.drawn = 0;
  }

  /** Draws some more rows and shows what there is; true when all rows are drawn. */
  frame() {
    const { gl, look } = this;
    const started = performance.now();
    const fresh = this.drawn === 0;
    const wanted = fresh ? this.budget : this.resting;
    const count = Math.min(wanted, n - this.drawn);
    gl.viewport(0, 0, gl.canvas.width, gl.canvas.height);
    gl.useProgram(this.points.program);
    const { uniforms } = this.points;
    gl.uniform2fv(uniforms.centre, look.centre);
    gl.uniform2fv(uniforms.scale, look.scale);
    gl.uniform1i(uniforms.palette, 0);
    gl.uniform1i(uniforms.layered, look.layered);
    gl.uniform3fv(uniforms.ink, look.ink);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.palette);
    gl.bindVertexArray(this.vertices);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE);
    this.layers.forEach(({ target }, layer) => {
      if (layer === 1 && !look.layered) return;
      gl.bindFramebuffer(gl.FRAMEBUFFER, target);
      if (fresh) gl.clearBufferfv(gl.COLOR, 0, [0, 0, 0, 0]);
      gl.uniform1i(uniforms.layer, layer);
      gl.uniform1f(uniforms.radius, layer ? look.radiusAbove : look.radius);
      gl.drawArrays(gl.POINTS, this.drawn, count);
    });
    this.drawn += count;
    this.show();
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4)); // waits: only so can a frame be timed
    this.adapt(performance.now() - started, fresh, count === wanted);
    return this.drawn >= n;
  }

  adapt(ms, fresh, full) {
    const better = (rows, target) =>
      ms > target || full ? Math.round(Math.max(LEAST_ROWS, Math.min(n, rows * Math.max(0.5, Math.min(2, target / ms))))) : rows;
    if (fresh) this.budget = better(this.budget, FRAME_MS);
    this.resting = Math.max(this.budget, fresh ? this.resting : better(this.resting, REST_MS));
  }

  show() {
    const { gl, look } = this;
    const { program, uniforms } = this.shade;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.disable(gl.BLEND);
    gl.useProgram(program);
    gl.bindVertexArray(this.empty);
    [this.layers[0].texture, this.layers[1].texture, this.ramp].forEach((texture, unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, texture);
    });
    gl.uniform1i(uniforms.others, 0);
    gl.uniform1i(uniforms.chosen, 1);
    gl.uniform1i(uniforms.ramp, 2);
    gl.uniform3fv(uniforms.page, look.page);
    gl.uniform3fv(uniforms.faint, look.faint);
    gl.uniform1f(uniforms.gain, n / Math.max(1, this.drawn));
    gl.uniform1f(uniforms.densest, Math.log2(1 + look.densest));
    gl.uniform1f(uniforms.least, look.least);
    gl.uniform1i(uniforms.byDensity, look.byDensity ? 1 : 0);
    gl.uniform1i(uniforms.layered, look.layered);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
}

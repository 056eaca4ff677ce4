// What Python packed: `meta`, and blocks of bytes by name, in the page itself or beside it on the local server.

export const meta = JSON.parse(document.getElementById("meta").textContent);

const PAGES_KEPT = 64;
const pages = new Map();

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

async function fetched(name) {
  const answer = await fetch(`data/${name}`).catch(() => ({ status: "nothing" }));
  if (!answer.ok) throw new Error(`${name}: the server answered ${answer.status}; is streamumap view --serve still running?`);
  return new Uint8Array(await answer.arrayBuffer());
}

/** The bytes of a block, as Python had them. */
export async function load(name) {
  if (meta.served) return fetched(name);
  const packed = fromBase64(document.getElementById(`data-${name}`).textContent);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Like load, and the text in the document is given back. */
export async function loadOnce(name) {
  const bytes = await load(name);
  document.getElementById(`data-${name}`)?.remove();
  return bytes;
}

function page(kind, number, decode) {
  const key = `${kind}-${number}`;
  const found = pages.get(key) ?? load(key).then(decode);
  pages.delete(key); // so that the oldest stands first
  pages.set(key, found);
  if (pages.size > PAGES_KEPT) pages.delete(pages.keys().next().value);
  return found;
}

/** The names of the rows of one page as text, a line each. */
export async function namesText(number) {
  return new TextDecoder().decode(await load(`names-${number}`));
}

export async function nameOf(row) {
  if (!meta.names) return null;
  const names = await page("names", Math.floor(row / meta.pageRows), (bytes) => new TextDecoder().decode(bytes).split("\n"));
  return names[row % meta.pageRows];
}

/** [[feature, activation], ...] of a row, strongest first. */
export async function featuresOf(row) {
  if (!meta.features) return [];
  const { top, largest, wide } = meta.features;
  const bytes = await page("features", Math.floor(row / meta.pageRows), (found) => found);
  const first = (row % meta.pageRows) * top;
  const nValues = bytes.length / (wide ? 5 : 3);
  const ids = wide ? new Uint32Array(bytes.buffer, 0, nValues) : new Uint16Array(bytes.buffer, 0, nValues);
  const found = [];
  for (let i = first; i < first + top; i++) {
    const level = bytes[bytes.length - nValues + i];
    if (level > 0) found.push([ids[i], largest * (level / 255) ** 2]);
  }
  return found;
}

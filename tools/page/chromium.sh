#!/usr/bin/env bash
# Installs a headless Chromium from the npm registry into a folder, for tests/show/page/test_browser.py if Playwright's own cannot be
# downloaded: `tools/page/chromium.sh FOLDER`, then `STREAMUMAP_CHROMIUM=FOLDER/chromium pytest`.
set -euo pipefail
mkdir -p "$1"
cd "$1"
npm install --no-audit --no-fund --silent --prefix npm @sparticuz/chromium@147
node --input-type=module - <<'JS'
import { readFileSync, writeFileSync } from "node:fs";
import { brotliDecompressSync } from "node:zlib";
const bin = "npm/node_modules/@sparticuz/chromium/bin/";
const unpacked = (name) => brotliDecompressSync(readFileSync(bin + name));
writeFileSync("chromium.unwrapped", unpacked("chromium.br"), { mode: 0o755 });
for (const name of ["swiftshader", "al2023"]) writeFileSync(`${name}.tar`, unpacked(`${name}.tar.br`));
JS
for archive in swiftshader al2023; do tar --no-same-owner -xf $archive.tar && rm $archive.tar; done
printf '#!/bin/sh\nLD_LIBRARY_PATH="%s/lib:%s" exec "%s/chromium.unwrapped" "$@"\n' "$PWD" "$PWD" "$PWD" >chromium
chmod +x chromium
./chromium --version

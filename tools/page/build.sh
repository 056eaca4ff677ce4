#!/usr/bin/env bash
# Makes streamumap/show/page/bundle.js and NOTICE from the sources here and the npm packages that package-lock.json names.
# `build.sh --check` only checks that the existing files are up to date.
set -euo pipefail
cd "$(dirname "$0")"
target=../../streamumap/show/page
npm ci --no-audit --no-fund --silent
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

{
    echo "The script of streamumap's page of a map (BSD-3-Clause, see LICENSE of streamumap) contains:"
    for name in d3-color d3-dispatch d3-drag d3-ease d3-interpolate d3-selection d3-timer d3-transition d3-zoom; do
        echo
        node -p 'const p = require(`./node_modules/${process.argv[1]}/package.json`); `${p.name} ${p.version}, ${p.license}`' "$name"
        cat "node_modules/$name/LICENSE"
    done
} >"$work/NOTICE"
./node_modules/.bin/esbuild src/main.js --bundle --minify --format=iife --target=es2022 --legal-comments=none \
    --log-level=warning --outfile="$work/main.js"
{
    echo "/*!"
    cat "$work/NOTICE"
    echo "*/"
    cat "$work/main.js"
} >"$work/bundle.js"

if [ "${1:-}" = --check ]; then
    cmp "$work/bundle.js" "$target/bundle.js"
    cmp "$work/NOTICE" "$target/NOTICE"
else
    cp "$work/bundle.js" "$work/NOTICE" "$target"
fi
wc -c "$target/bundle.js"

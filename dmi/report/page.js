"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const make = (tag, text) => { const e = document.createElement(tag); e.textContent = text; return e; };
  const bytes = (n) => n >= 1 << 20 ? (n / (1 << 20)).toFixed(2) + " MiB" : n >= 1024 ? (n / 1024).toFixed(1) + " KiB" : n + " B";

  // ---- light or dark ------------------------------------------------------------------------------
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());

  // ---- values under the pointer -------------------------------------------------------------------
  for (const svg of document.querySelectorAll("svg[data-chart]")) {
    const number = +svg.dataset.chart, lines = data.charts[number].series;
    const out = document.querySelector(`[data-readout="${number}"]`), cursor = svg.querySelector(".cursor");
    const [x0, x1, left, right] = ["x0", "x1", "left", "right"].map((name) => +svg.dataset[name]);
    const box = svg.viewBox.baseVal;
    svg.addEventListener("pointermove", (event) => {
      const at = svg.getBoundingClientRect();
      const x = Math.min(right, Math.max(left, (event.clientX - at.left) / at.width * box.width));
      const when = x0 + (x - left) / (right - left) * (x1 - x0);
      cursor.setAttribute("x1", x); cursor.setAttribute("x2", x);
      cursor.setAttribute("y2", box.height - 30); cursor.setAttribute("visibility", "visible");
      out.textContent = when.toFixed(2) + " s: " + lines.filter((line) => line.points.length).map((line) => {
        let best = line.points[0];
        for (const point of line.points) if (Math.abs(point[0] - when) < Math.abs(best[0] - when)) best = point;
        return line.name + " " + bytes(best[1]);
      }).join(", ");
    });
    svg.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); out.textContent = ""; });
  }

  // ---- the map ------------------------------------------------------------------------------------
  const canvas = byId("map-canvas");
  let draw = () => {};
  if (!canvas) return;
  const heapBox = byId("map-heap"), segmentBox = byId("map-segment"), picked = byId("map-picked");
  let pages = new Uint8Array(0), blocks = null, segment = null, heap = null;
  let cell = 8, top = 0, chosen = 0, turn = 0;

  const unpack = async (text) => {
    const raw = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  // Gap and size of each block, seven bits a byte: see dmi/report/_map.py.
  const decode = (packed, count) => {
    const start = new Float64Array(count), size = new Float64Array(count);
    let at = 0, end = 0;
    const next = () => { let n = 0, scale = 1; for (;;) { const b = packed[at++]; n += (b & 127) * scale; if (b < 128) return n; scale *= 128; } };
    for (let i = 0; i < count; i++) { start[i] = end + next(); size[i] = next(); end = start[i] + size[i]; }
    return { start, size };
  };
  const hex = (base, offset) => (BigInt("0x" + base) + BigInt(Math.round(offset))).toString(16);

  data.states.forEach((name, n) => {
    const item = make("li", name), key = document.createElement("span");
    key.className = "key m" + n; item.prepend(key); byId("map-legend").append(item);
  });

  const columns = () => Math.max(1, Math.floor(canvas.clientWidth / cell));
  const rows = () => Math.max(1, Math.floor(canvas.clientHeight / cell));
  draw = () => {
    const ratio = devicePixelRatio || 1, wide = columns(), high = rows();
    canvas.width = canvas.clientWidth * ratio; canvas.height = canvas.clientHeight * ratio;
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const colours = data.states.map((_, n) => style.getPropertyValue("--p" + n).trim());
    pen.scale(ratio, ratio);
    const gap = cell > 5 ? 1 : 0;
    for (let row = 0; row < high; row++) for (let column = 0; column < wide; column++) {
      const page = (top + row) * wide + column;
      if (page >= pages.length) return mark(pen, wide);
      pen.fillStyle = colours[pages[page]];
      pen.fillRect(column * cell, row * cell, cell - gap, cell - gap);
    }
    mark(pen, wide);
  };
  const mark = (pen, wide) => {
    const row = Math.floor(chosen / wide) - top;
    if (row < 0) return;
    pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
    pen.lineWidth = 2;
    pen.strokeRect((chosen % wide) * cell - 1, row * cell - 1, cell + 1, cell + 1);
  };
  const show = () => {
    picked.replaceChildren();
    if (!pages.length) { picked.append(make("p", heap.note || "Nothing to draw.")); return; }
    const begin = chosen * heap.page;
    picked.append(make("p", `Page ${chosen + 1} of ${pages.length} at ${hex(segment.address, begin)}: ${data.states[pages[chosen]]}.`));
    if (blocks) {
      let low = 0, high = blocks.start.length;
      while (low < high) { const mid = (low + high) >> 1; if (blocks.start[mid] + blocks.size[mid] <= begin) low = mid + 1; else high = mid; }
      const list = document.createElement("ul");
      let n = low, more = 0;
      for (; n < blocks.start.length && blocks.start[n] < begin + heap.page; n++) {
        if (list.childElementCount < 64) list.append(make("li", `block ${hex(segment.address, blocks.start[n])}, ${bytes(blocks.size[n])}, ${heap.owners[hex(segment.address, blocks.start[n])] || "owner not recorded"}`)); else more++;
      }
      picked.append(make("p", n - low ? `${n - low} busy block${n - low > 1 ? "s" : ""} on it:` : "No busy block on it."), list);
      if (more) picked.append(make("p", `and ${more} more`));
    } else picked.append(make("p", heap.note || "Blocks are not listed."));
  };
  const choose = (page) => {
    const wide = columns();
    chosen = Math.min(pages.length - 1, Math.max(0, page));
    const row = Math.floor(chosen / wide);
    if (row < top) top = row;
    if (row >= top + rows()) top = row - rows() + 1;
    draw(); show();
  };
  const zoom = (by) => { cell = Math.min(32, Math.max(2, cell + by)); top = 0; choose(chosen); };
  const load = async () => {
    const mine = ++turn;
    segment = heap.segments[+segmentBox.value];
    if (!segment) { pages = new Uint8Array(0); blocks = null; draw(); show(); return; }
    const found = await unpack(segment.pages);
    const list = segment.blocks === null ? null : decode(await unpack(segment.blocks), segment.count);
    if (mine !== turn) return; // another segment was chosen meanwhile
    pages = found; blocks = list; top = 0;
    cell = pages.length > 40000 ? 3 : pages.length > 8000 ? 5 : 10;
    choose(0);
    canvas.dataset.ready = "1";
  };
  const pick = () => {
    heap = data.maps[+heapBox.value];
    segmentBox.replaceChildren(...heap.segments.map((each, n) => {
      const option = make("option", each.address + (each.virtual ? " (virtual block)" : "")); option.value = n; return option;
    }));
    const pins = byId("map-pins");
    pins.replaceChildren();
    if (heap.pins.length) {
      const table = document.createElement("table"), head = document.createElement("tr");
      ["blocks that keep most: address", "size", "keeps", "allocated at"].forEach((text) => head.append(make("th", text)));
      table.append(head);
      for (const [address, size, kept] of heap.pins.slice(0, 10)) {
        const row = document.createElement("tr");
        [address, bytes(size), bytes(kept), heap.owners[address] || "not recorded"].forEach((text) => row.append(make("td", text)));
        table.append(row);
      }
      pins.append(table);
    }
    load();
  };
  heapBox.addEventListener("change", pick);
  segmentBox.addEventListener("change", load);
  byId("map-in").addEventListener("click", () => zoom(3));
  byId("map-out").addEventListener("click", () => zoom(-3));
  canvas.addEventListener("click", (event) => {
    const at = canvas.getBoundingClientRect();
    choose((top + Math.floor((event.clientY - at.top) / cell)) * columns() + Math.floor((event.clientX - at.left) / cell));
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey) { zoom(event.deltaY < 0 ? 1 : -1); return; }
    const last = Math.max(0, Math.ceil(pages.length / columns()) - rows());
    top = Math.min(last, Math.max(0, top + Math.sign(event.deltaY) * 3));
    draw();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const wide = columns(), step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -wide, ArrowDown: wide, PageUp: -wide * rows(), PageDown: wide * rows(), Home: -chosen, End: pages.length }[event.key];
    if (step !== undefined) choose(chosen + step);
    else if (event.key === "+") zoom(3);
    else if (event.key === "-") zoom(-3);
    else return;
    event.preventDefault();
  });
  addEventListener("resize", () => draw());
  pick();
})();

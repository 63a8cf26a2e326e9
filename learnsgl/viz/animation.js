// Plays the frames in #data: pages on a canvas, the radix tree as SVG. Frames are differences, so going back
// starts again from the first one; a few hundred small frames are applied faster than a screen is drawn.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const [FREE, CACHED, SHARED] = [0, 1, 3];
  const MAX_ROWS = 40;
  const MAX_NAMED = 12;
  let place = -1;
  let cells = [];
  let changed = new Set();
  let nodes = new Map();
  let fresh = new Set();
  let timer = null;

  const colourOf = (uid) => data.requests[(uid - 1) % data.requests.length];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const names = (uids, most = MAX_NAMED) =>
    uids.length <= most ? uids.join(", ") : `${uids.slice(0, most).join(", ")} and ${uids.length - most} more`;
  const plural = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

  function reset() {
    place = -1;
    cells = new Array(data.cells).fill(FREE);
    nodes = new Map();
  }

  function apply(frame) {
    changed = new Set();
    for (const [start, length, code] of frame.cells ?? [])
      for (let cell = start; cell < start + length; cell++) { cells[cell] = code; changed.add(cell); }
    fresh = new Set();
    for (const node of frame.removed ?? []) nodes.delete(node);
    for (const [node, parent, pages, lock, lastUse, uids] of frame.nodes ?? []) {
      if (!nodes.has(node)) fresh.add(node);
      nodes.set(node, { node, parent, pages, lock, lastUse, uids });
    }
  }

  function go(target) {
    const wanted = Math.max(0, Math.min(data.frames.length - 1, target));
    if (wanted < place) reset();
    while (place < wanted) apply(data.frames[++place]);
    draw();
  }

  function colours() {
    const fixed = { [FREE]: css("free"), [CACHED]: css("cached"), [SHARED]: css("shared") };
    return (code) => fixed[code] ?? colourOf(code - data.firstUid);
  }

  function drawPages() {
    const canvas = byId("pages");
    const width = canvas.parentElement.clientWidth;
    const columns = Math.min(data.cells, Math.max(8, Math.ceil(Math.sqrt(data.cells * 1.7))));
    const size = Math.min(26, width / columns);
    const rows = Math.ceil(data.cells / columns);
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round((rows * size + 2) * ratio);
    canvas.style.height = `${rows * size + 2}px`;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const colour = colours();
    const gap = size > 7 ? 1.5 : size > 3 ? 0.5 : 0;
    for (let cell = 0; cell < data.cells; cell++) {
      const x = (cell % columns) * size, y = Math.floor(cell / columns) * size;
      pen.fillStyle = colour(cells[cell]);
      pen.fillRect(x + 1, y + 1, size - gap, size - gap);
      if (size > 5 && changed.has(cell)) {
        pen.strokeStyle = css("mark");
        pen.lineWidth = 1.2;
        pen.strokeRect(x + 1.6, y + 1.6, size - gap - 1.2, size - gap - 1.2);
      }
    }
    const counts = new Map();
    for (const code of cells) counts.set(code, (counts.get(code) ?? 0) + 1);
    drawKey(counts, colour);
  }

  function drawKey(counts, colour) {
    const key = byId("key");
    key.replaceChildren();
    const requests = [...counts.keys()].filter((code) => code >= data.firstUid).sort((a, b) => a - b);
    const entries = requests.slice(0, MAX_NAMED).map((code) => [code, `request ${code - data.firstUid}`]);
    entries.push([SHARED, "several requests"], [CACHED, "only the cache"], [FREE, "free"]);
    const words = [];
    for (const [code, name] of entries) {
      const many = (counts.get(code) ?? 0) * data.pagesPerCell;
      const line = document.createElement("span");
      const box = document.createElement("i");
      box.style.background = colour(code);
      line.append(box, `${name}: ${many.toLocaleString("en")}`);
      key.append(line);
      words.push(`${name} ${many}`);
    }
    if (requests.length > MAX_NAMED) key.append(`and ${plural(requests.length - MAX_NAMED, "request")} more`);
    byId("pages").setAttribute("aria-label", `KV pages, by who holds them: ${words.join(", ")}`);
  }

  function ordered() {
    const children = new Map();
    for (const node of [...nodes.values()].sort((a, b) => a.node - b.node)) {
      if (!children.has(node.parent)) children.set(node.parent, []);
      children.get(node.parent).push(node);
    }
    const rows = [];
    const waiting = [...(children.get(0) ?? [])].reverse().map((node) => [node, 0]);
    while (waiting.length) {
      const [node, start] = waiting.pop();
      rows.push({ ...node, start });
      const below = children.get(node.node) ?? [];
      for (const child of [...below].reverse()) waiting.push([child, start + node.pages]);
    }
    if (rows.length <= MAX_ROWS) return [rows, 0];
    const locked = rows.filter((row) => row.lock > 0);
    const kept = (locked.length ? locked : rows).slice(0, MAX_ROWS);
    return [kept, rows.length - kept.length];
  }

  function element(parent, name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  const deepest = (() => {  // of all frames, so that the axis stays where it is
    reset();
    let most = 1;
    for (const frame of data.frames) {
      apply(frame);
      for (const row of ordered()[0]) most = Math.max(most, row.start + row.pages);
    }
    return most;
  })();

  function drawTree() {
    const [rows, left] = ordered();
    const box = byId("tree");
    const WIDTH = Math.max(300, Math.min(560, box.clientWidth)), BARS = 0.42 * WIDTH, ROW = 19;
    const height = Math.max(1, rows.length + (left ? 1 : 0)) * ROW + 8;
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
    const lines = new Map(rows.map((row, line) => [row.node, line]));
    rows.forEach((row, line) => {
      const x = row.start / deepest * BARS, w = Math.max(1.5, row.pages / deepest * BARS), y = line * ROW + 4;
      if (lines.has(row.parent))
        element(svg, "line", { x1: x, x2: x, y1: lines.get(row.parent) * ROW + 11, y2: y + 13, stroke: "var(--muted)" });
      const holders = row.uids.length ? row.uids.map(colourOf) : ["var(--cached)"];
      holders.forEach((colour, stripe) => element(svg, "rect", {
        x, y: y + stripe * 13 / holders.length, width: w, height: 13 / holders.length, fill: colour,
      }));
      if (fresh.has(row.node))
        element(svg, "rect", { x, y, width: w, height: 13, fill: "none", stroke: "var(--mark)", "stroke-width": 1.5 });
      const holding = [...new Set(row.uids)];
      const who = holding.length > 3 ? `${holding.length} requests` : names(holding);
      const held = holding.length ? `held by ${who}` : "evictable";
      const label = element(svg, "text", { x: BARS + 10, y: y + 11, fill: row.uids.length ? "var(--ink)" : "var(--muted)" },
        `${row.node}: ${plural(row.pages * data.pageSize, "token")}, ${held}`);
      element(label, "title", {}, `node ${row.node}, last used at ${row.lastUse}, held by ${names(holding) || "nobody"}`);
    });
    const empty = rows.length ? "" : "The cache is empty.";
    if (left || empty)
      element(svg, "text", { x: 2, y: height - 6, fill: "var(--muted)" }, empty || `and ${plural(left, "node")} more`);
    box.replaceChildren(svg);
    const locked = [...nodes.values()].filter((node) => node.lock > 0).length;
    box.setAttribute("aria-label", `The radix tree: ${plural(nodes.size, "node")}, ${locked} of them held by requests`);
  }

  function draw() {
    const frame = data.frames[place];
    const prefill = (frame.prefill ?? []).map(([uid, tokens]) => `${uid} (${plural(tokens, "token")})`);
    const parts = [`Step ${frame.step.toLocaleString("en")}, ${(frame.ms / 1000).toFixed(3)} s.`];
    parts.push(prefill.length ? `Prefill: ${names(prefill)}.` : "No prefill.");
    parts.push(frame.decode ? `Decode: ${names(frame.decode)}.` : "No decode.");
    if (frame.waiting) parts.push(`Waiting: ${names(frame.waiting)}.`);
    if (frame.num_evicted) parts.push(`Evicted: ${plural(frame.num_evicted, "node")}.`);
    byId("caption").textContent = parts.join(" ");
    const slider = byId("slider");
    slider.value = String(place);
    slider.setAttribute("aria-valuetext", `step ${frame.step}`);
    drawPages();
    drawTree();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    byId("play").textContent = "Play";
    byId("caption").setAttribute("aria-live", "polite");
  }

  function play() {
    if (place === data.frames.length - 1) go(0);
    byId("play").textContent = "Pause";
    byId("caption").setAttribute("aria-live", "off");  // a screen reader would read nothing else
    timer = setInterval(() => {
      go(place + 1);
      if (place === data.frames.length - 1) stop();
    }, Number(byId("speed").value));
  }

  byId("play").addEventListener("click", () => timer === null ? play() : stop());
  byId("first").addEventListener("click", () => { stop(); go(0); });
  byId("back").addEventListener("click", () => { stop(); go(place - 1); });
  byId("forward").addEventListener("click", () => { stop(); go(place + 1); });
  byId("slider").addEventListener("input", (event) => { stop(); go(Number(event.target.value)); });
  byId("speed").addEventListener("change", () => { if (timer !== null) { stop(); play(); } });
  document.addEventListener("keydown", (event) => {
    if (["BUTTON", "INPUT", "SELECT"].includes(event.target.tagName)) return;  // they have keys of their own
    const moves = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: data.frames.length - 1 };
    if (event.key === " ") { event.preventDefault(); byId("play").click(); }
    else if (event.key in moves) { event.preventDefault(); stop(); go(moves[event.key]); }
  });
  window.addEventListener("resize", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  reset();
  go(0);
})();

"use strict";
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const fine = matchMedia("(pointer: fine)");
  const drawn = new Map(); // figure id -> JSON text that is on the page
  let figures = page.figures;
  let printing = false;

  // Theme: the system's, until the button is pressed.
  const remembered = () => { try { return localStorage.getItem("vadtune-theme"); } catch { return null; } };
  const theme = () => printing ? "light" : root.dataset.theme || (dark.matches ? "dark" : "light");
  if (["light", "dark"].includes(remembered())) root.dataset.theme = remembered();

  // Figures name colours by token; numbers travel as base64 and are passed through untouched.
  const coloured = (value, colours) => {
    if (typeof value === "string") return value.includes("var(--") ? value.replace(/var\(--(\w+)\)/g, (m, name) => colours[name] || m) : value;
    if (Array.isArray(value)) return typeof value[0] === "number" && typeof value.at(-1) === "number" ? value : value.map(item => coloured(item, colours));
    if (value && typeof value === "object") {
      if (value.bdata) return value;
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, colours)]));
    }
    return value;
  };

  function draw(plot) {
    const id = plot.dataset.figure;
    const text = figures[id] && JSON.stringify(figures[id]);
    const stamp = theme() + text;
    if (!text || drawn.get(plot) === stamp) return;
    const figure = coloured(figures[id], page.themes[theme()]);
    if (fine.matches) figure.layout.dragmode = figure.layout.dragmode === false ? "zoom" : figure.layout.dragmode;
    keepView(plot, figure);
    drawn.set(plot, stamp);
    plot.style.height = figure.layout.height + "px";
    return Plotly.react(plot, figure.data, figure.layout, page.config);
  }

  // Brushes of parallel coordinates and pressed buttons outlive a redraw; zoom does so by `uirevision`.
  function keepView(plot, figure) {
    for (const [i, trace] of (plot.data || []).entries()) {
      const next = figure.data[i];
      if (trace.type === "parcoords" && next && next.type === "parcoords") {
        const brushes = new Map(trace.dimensions.map(d => [d.label, d.constraintrange]));
        for (const d of next.dimensions) if (brushes.get(d.label)) d.constraintrange = brushes.get(d.label);
      }
    }
  }

  const plots = () => [...document.querySelectorAll(".plot[data-figure]")];
  const redraw = () => plots().filter(plot => drawn.has(plot)).forEach(draw);
  const near = new IntersectionObserver(entries => entries.forEach(e => {
    if (e.isIntersecting) { near.unobserve(e.target); draw(e.target); }
  }), { rootMargin: "400px" });
  const whenIdle = window.requestIdleCallback || (f => setTimeout(f, 60));
  function drawRest() {
    const next = plots().find(plot => !drawn.has(plot) && figures[plot.dataset.figure]);
    if (next) { draw(next); whenIdle(drawRest); } else root.dataset.drawn = "all";
  }
  const watchPlots = () => { plots().filter(p => !drawn.has(p)).forEach(p => near.observe(p)); whenIdle(drawRest); };

  document.addEventListener("click", event => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.id === "theme") {
      root.dataset.theme = theme() === "dark" ? "light" : "dark";
      try { localStorage.setItem("vadtune-theme", root.dataset.theme); } catch { /* a private window forgets it */ }
      redraw();
    } else if (button.dataset.copy !== undefined) copy(button);
    else if (button.closest(".sortable th")) sortBy(button.closest("th"));
  });
  dark.addEventListener("change", redraw);

  async function copy(button) {
    const text = button.dataset.copy;
    try { await navigator.clipboard.writeText(text); } catch {
      const area = document.createElement("textarea");
      area.value = text; document.body.append(area); area.select(); document.execCommand("copy"); area.remove();
    }
    const before = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = before; }, 1400);
  }

  // Tables: a number sorts by its value, text by its letters, what is unknown comes last either way.
  function sortBy(head) {
    const table = head.closest("table");
    const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    applySort(table);
  }
  function applySort(table) {
    const head = table.querySelector("th[aria-sort]");
    if (!head) return;
    const sign = head.getAttribute("aria-sort") === "ascending" ? 1 : -1;
    const key = row => { const c = row.cells[head.cellIndex]; return c.dataset.v !== undefined ? parseFloat(c.dataset.v) : c.textContent; };
    const unknown = k => k === "–" || k === "" || Number.isNaN(k);
    const body = table.tBodies[0];
    body.append(...[...body.rows].map(row => [key(row), row]).sort(([a], [b]) => {
      if (unknown(a) || unknown(b)) return unknown(a) - unknown(b);
      return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
    }).map(([, row]) => row));
  }

  // The table of contents follows the reader.
  function followReader() {
    const links = [...document.querySelectorAll("nav.toc a")];
    const sections = links.map(link => document.getElementById(link.hash.slice(1)));
    const mark = () => {
      let current = 0;
      sections.forEach((section, i) => { if (section && section.getBoundingClientRect().top < innerHeight * .35) current = i; });
      if (innerHeight + scrollY >= root.scrollHeight - 4) current = links.length - 1;
      links.forEach((link, i) => i === current ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"));
    };
    addEventListener("scroll", mark, { passive: true });
    mark();
  }

  addEventListener("beforeprint", () => { printing = true; root.classList.add("printing"); plots().forEach(p => { draw(p); Plotly.Plots.resize(p); }); });
  addEventListener("afterprint", () => { printing = false; root.classList.remove("printing"); plots().forEach(p => { draw(p); Plotly.Plots.resize(p); }); });

  watchPlots();
  followReader();
})();

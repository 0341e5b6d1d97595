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
    const stamp = theme() + printing + text;
    if (!text || drawn.get(plot) === stamp) return;
    const figure = coloured(figures[id], page.themes[theme()]);
    if (fine.matches) figure.layout.dragmode = figure.layout.dragmode === false ? "zoom" : figure.layout.dragmode;
    const parallel = figure.layout.meta && figure.layout.meta.n_axes;
    if (printing) figure.layout.width = plot.clientWidth;  // paper is laid out before a plot could follow it
    const aspect = figure.layout.meta && figure.layout.meta.aspect;
    if (aspect) figure.layout.height = Math.min(figure.layout.height, Math.round(plot.clientWidth * aspect) + 16);
    if (parallel) parallelCoordinates.brushed(plot, figure);
    drawn.set(plot, stamp);
    plot.style.height = figure.layout.height + "px";
    return Plotly.react(plot, figure.data, figure.layout, { ...page.config, displayModeBar: fine.matches ? "hover" : false }).then(() => {
      if (!parallel || plot.dataset.brushing) return;
      plot.dataset.brushing = "yes";
      const lay = () => parallelCoordinates.lay(plot, p => { drawn.delete(p); draw(p); });
      plot.on("plotly_afterplot", lay);
      lay();
    });
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
  const inSight = plot => { const box = plot.getBoundingClientRect(); return box.top < innerHeight && box.bottom > 0; };
  const watchPlots = () => { plots().filter(inSight).forEach(draw); plots().filter(p => !drawn.has(p)).forEach(p => near.observe(p)); whenIdle(drawRest); };

  document.addEventListener("click", event => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.id === "theme") {
      root.dataset.theme = theme() === "dark" ? "light" : "dark";
      try { localStorage.setItem("vadtune-theme", root.dataset.theme); } catch { /* a private window forgets it */ }
      redraw();
    } else if (button.dataset.copy !== undefined) copy(button);
    else if (button.id === "trial-more") { trials.shown += 400; showTrials(); }
    else if (button.dataset.trial !== undefined) {
      const number = Number(button.dataset.trial);
      if (!trials.open.delete(number)) trials.open.add(number);
      showTrials();
      document.querySelector(`#all-trials [data-trial="${number}"]`)?.focus();
    } else if (button.closest("#all-trials th")) {
      const column = button.closest("th").cellIndex;
      trials.sign = column === trials.column ? -trials.sign : 1;
      trials.column = column;
      showTrials();
    } else if (button.closest(".sortable th")) sortBy(button.closest("th"));
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

  // All trials: rows are made as they are looked at, out of the page's data; text is only ever set as text.
  const trials = { shown: 100, column: 0, sign: 1, filter: "", open: new Set() };
  function reportsOf(number) {
    const [epochs, values] = page.trials.reports[number] || [[], []];
    const said = epochs.map((epoch, i) => `${epoch}: ${values[i] === null ? "–" : values[i].toPrecision(4)}`);
    return said.length ? `Validation RMSE by epoch – ${said.join(" · ")}` : "It has reported nothing.";
  }
  function matching() {
    const rows = page.trials.rows, words = trials.filter.toLowerCase().split(/\s+/).filter(Boolean);
    const found = words.length ? rows.filter(row => {
      const text = row.map((v, i) => `${page.trials.columns[i]}=${v} ${v}`).join(" ").toLowerCase();
      return words.every(word => /^\d+$/.test(word) ? String(row[0]) === word : text.includes(word));
    }) : rows.slice();
    const i = trials.column;
    return found.sort((a, b) => {
      if (a[i] === null || b[i] === null) return (a[i] === null) - (b[i] === null);
      return trials.sign * (typeof a[i] === "number" && typeof b[i] === "number" ? a[i] - b[i] : String(a[i]).localeCompare(String(b[i]), undefined, { numeric: true }));
    });
  }
  function showTrials() {
    const table = document.getElementById("all-trials");
    if (!table || !page.trials) return;
    const rows = matching(), numeric = page.trials.columns.map((_, i) => page.trials.rows.every(r => r[i] === null || typeof r[i] === "number"));
    const make = (name, parent, text) => { const e = document.createElement(name); if (text !== undefined) e.textContent = text; parent.append(e); return e; };
    table.replaceChildren();
    const head = make("tr", make("thead", table));
    page.trials.columns.forEach((name, i) => {
      const th = make("th", head);
      th.scope = "col";
      if (numeric[i]) th.className = "n";
      if (i === trials.column) th.setAttribute("aria-sort", trials.sign > 0 ? "ascending" : "descending");
      make("button", th, name).type = "button";
    });
    const body = make("tbody", table);
    for (const row of rows.slice(0, trials.shown)) {
      const tr = make("tr", body);
      row.forEach((v, i) => { const td = make("td", tr, i === 0 ? undefined : v === null ? "–" : typeof v === "number" ? String(+v.toPrecision(5)) : String(v)); if (numeric[i]) td.className = "n"; });
      const number = row[0], isOpen = trials.open.has(number), more = make("button", tr.cells[0], String(number));
      more.type = "button";
      more.className = "more";
      more.dataset.trial = number;
      more.title = "What it reported";
      more.setAttribute("aria-expanded", isOpen);
      if (!isOpen) continue;
      const reports = make("td", make("tr", body), reportsOf(number));
      reports.colSpan = row.length;
      reports.className = "reports";
    }
    document.getElementById("trial-count").textContent = `${rows.length} of ${page.trials.rows.length} trials`;
    document.getElementById("trial-more").hidden = rows.length <= trials.shown;
  }
  document.addEventListener("toggle", event => { if (event.target.id === "all" && event.target.open) showTrials(); }, true);
  document.addEventListener("input", event => { if (event.target.id === "trial-filter") { trials.filter = event.target.value; trials.shown = 100; showTrials(); } });

  // The table of contents follows the reader.
  function followReader() {
    const mark = () => {
      const links = [...document.querySelectorAll("nav.toc a")];
      const sections = links.map(link => document.getElementById(link.hash.slice(1)));
      let current = 0;
      sections.forEach((section, i) => { if (section && section.getBoundingClientRect().top < innerHeight * .35) current = i; });
      if (scrollY > 0 && innerHeight + scrollY >= root.scrollHeight - 4) current = links.length - 1;
      links.forEach((link, i) => i === current ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"));
    };
    addEventListener("scroll", mark, { passive: true });
    mark();
  }

  addEventListener("beforeprint", () => { printing = true; root.classList.add("printing"); plots().forEach(draw); });
  addEventListener("afterprint", () => { printing = false; root.classList.remove("printing"); plots().forEach(draw); });

  // Live: ask for news every other second; what did not change stays as it is, so nothing flickers.
  function morph(old, fresh) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.id !== fresh.id) { old.replaceWith(fresh); return; }
    if (old.nodeType === Node.TEXT_NODE) { if (old.data !== fresh.data) old.data = fresh.data; return; }
    if (old.matches(".plot, #all-trials, .tools")) return;
    for (const { name, value } of [...fresh.attributes]) if (old.getAttribute(name) !== value && name !== "style") old.setAttribute(name, value);
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && !["open", "style", "aria-sort", "aria-current", "data-brushing"].includes(name)) old.removeAttribute(name);
    if (old.style && old.style.cssText !== fresh.style.cssText) old.style.cssText = fresh.style.cssText;
    const own = () => [...old.childNodes].filter(node => !(node.classList && node.classList.contains("brushed")));
    const before = own(), byId = new Map(before.filter(node => node.id).map(node => [node.id, node]));
    const children = [...fresh.childNodes];
    children.forEach((child, i) => {
      const match = child.id ? byId.get(child.id) : before[i] && !before[i].id ? before[i] : null;
      const at = own()[i] || null;
      if (at !== (match || child)) old.insertBefore(match || child, at);
      if (match) morph(match, child);
    });
    own().slice(children.length).forEach(node => node.remove());
  }
  function take(state) {
    figures = state.figures;
    page.trials = state.trials;
    document.title = state.title;
    for (const [selector, text] of [["nav.toc", state.nav], ["main", state.main]]) {
      const holder = document.createElement("template");
      holder.innerHTML = text;
      morph(document.querySelector(selector), holder.content.firstChild);
    }
    document.querySelectorAll("table.sortable:not(#all-trials)").forEach(applySort);
    if (document.getElementById("all")?.open) showTrials();
    plots().forEach(plot => { near.unobserve(plot); near.observe(plot); });
  }
  async function listen() {
    const status = document.getElementById("status");
    const say = (text, kind) => { status.textContent = text; status.className = `status ${kind}`; };
    let tag = "", wait = 2000;
    for (;;) {
      if (!document.hidden) try {
        const answer = await fetch("/state", { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
        if (answer.status === 200) {
          tag = answer.headers.get("ETag");
          const state = await answer.json();
          take(state);
          root.dataset.updates = Number(root.dataset.updates || 0) + 1;
          say(state.problem || `as of ${new Date().toLocaleTimeString()}`, state.problem ? "lost" : state.running ? "" : "still");
        } else if (!answer.ok && answer.status !== 304) throw new Error(answer.status);
        wait = 2000;
      } catch { say("no answer from the server", "lost"); wait = Math.min(wait * 1.5, 15000); }
      await new Promise(done => setTimeout(done, wait));
    }
  }

  watchPlots();
  followReader();
  if (page.live) listen();
})();

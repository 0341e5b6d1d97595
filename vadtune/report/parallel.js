"use strict";
// Brushes for parallel coordinates drawn as plain lines: a strip over each axis takes the pointer or the keyboard.
// Trace 0 is for lines that are brushed away; each other trace holds whole lines of `n` points and a gap.
const parallelCoordinates = (() => {
  const brushes = new Map(); // plot id -> Map(axis number -> [low, high])

  function lines(figure) {
    const n = figure.layout.meta.n_axes;
    return figure.data.slice(1).map(trace => {
      const found = [];
      for (let i = 0; i + n <= trace.y.length; i += n + 1) found.push(trace.y.slice(i, i + n));
      return found;
    });
  }

  const keeps = (line, ranges) => [...ranges].every(([axis, [low, high]]) => line[axis] >= low - 1e-6 && line[axis] <= high + 1e-6);

  // The figure with the brushes of this plot put in; called before every drawing.
  function brushed(plot, figure) {
    const ranges = brushes.get(plot.id) || new Map(), n = figure.layout.meta.n_axes;
    const gone = { x: [], y: [] }, gap = Array(n + 1).fill(null);
    let kept = 0, all = 0;
    lines(figure).forEach((trace, t) => {
      const y = [], last = t === figure.data.length - 2; // the winner's trace repeats a line of another one
      for (const line of trace) {
        const stays = keeps(line, ranges);
        y.push(...(stays ? [...line, null] : gap));
        if (!stays && !last) { gone.x.push(...line.keys(), null); gone.y.push(...line, null); }
        if (!last) { all += 1; kept += stays; }
      }
      figure.data[t + 1].y = y;
    });
    Object.assign(figure.data[0], gone);
    const status = plot.parentElement.querySelector(".brushed") || plot.insertAdjacentElement("afterend", document.createElement("p"));
    status.className = "brushed";
    status.setAttribute("role", "status");
    status.textContent = ranges.size ? `${kept} of ${all} trials kept` : "";
    return figure;
  }

  // Strips over the axes, laid again whenever the figure was.
  function lay(plot, redraw) {
    let layer = plot.querySelector(".brushes");
    if (!layer) { layer = document.createElement("div"); layer.className = "brushes"; plot.append(layer); }
    const { xaxis, yaxis, meta } = plot._fullLayout, ranges = brushes.get(plot.id) || new Map();
    brushes.set(plot.id, ranges);
    const pixel = y => yaxis._offset + yaxis.l2p(y), place = p => Math.min(Math.max(yaxis.p2l(p - yaxis._offset), meta.low), 1);
    while (layer.children.length < meta.n_axes) {
      const strip = document.createElement("div"), axis = layer.children.length;
      strip.className = "brush";
      strip.tabIndex = 0;
      strip.setAttribute("role", "group");
      strip.append(document.createElement("i"));
      layer.append(strip);
      listen(strip, axis);
    }
    [...layer.children].forEach((strip, axis) => {
      const top = pixel(1.02), x = xaxis._offset + xaxis.l2p(axis);
      strip.setAttribute("aria-label", `Brush ${meta.names[axis]}: arrow keys choose a tenth, Escape lets go`);
      strip.style.cssText = `left:${x - 13}px;top:${top}px;height:${pixel(meta.low) - top}px`;
      const range = ranges.get(axis), mark = strip.firstChild;
      mark.hidden = !range;
      if (range) mark.style.cssText = `top:${pixel(range[1]) - top - 2}px;height:${pixel(range[0]) - pixel(range[1]) + 4}px`;
    });

    function listen(strip, axis) {
      let from = null;
      const at = event => place(event.clientY - plot.getBoundingClientRect().top);
      const set = range => { range ? brushes.get(plot.id).set(axis, range) : brushes.get(plot.id).delete(axis); redraw(plot); };
      strip.addEventListener("pointerdown", event => { from = at(event); strip.setPointerCapture(event.pointerId); event.preventDefault(); });
      strip.addEventListener("pointermove", event => {
        if (from === null) return;
        const to = at(event);
        if (Math.abs(to - from) > .01) set([Math.min(from, to), Math.max(from, to)]);
      });
      strip.addEventListener("pointerup", event => { if (from !== null && Math.abs(at(event) - from) <= .01) set(null); from = null; });
      strip.addEventListener("keydown", event => {
        const step = { ArrowUp: .1, ArrowDown: -.1 }[event.key];
        if (!step && event.key !== "Escape") return;
        event.preventDefault();
        const now = brushes.get(plot.id).get(axis), low = now ? Math.min(Math.max(now[0] + step, 0), .9) : step > 0 ? 0 : .9;
        set(event.key === "Escape" ? null : [low, low + .1]);
      });
    }
  }
  return { brushed, lay };
})();

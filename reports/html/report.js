"use strict";
/* Shows the numbers in #data. No library, no network; everything is reachable by keyboard. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const state = { model: 0, variant: 0, metric: "rel_l1", minus: -1, shared: false, cell: null };
  const model = () => data.models[state.model];

  /* el("td", {class: "left"}, "text", child) */
  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value === true) node.setAttribute(key, "");
      else if (value !== false && value !== null) node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  }

  /* ---- numbers. Arrays hold errors: CosSim is stored as 1 - CosSim. ---- */
  const missing = (x) => x === null || x === undefined;
  const significant = (x, digits = 3) => (missing(x) ? "nan" : x === 0 ? "0" : Math.abs(x) < 1e-3 || Math.abs(x) >= 1e4 ? x.toExponential(digits - 1) : x.toPrecision(digits));
  function show(metric, error) {
    if (missing(error)) return "nan";
    if (metric === "cos_sim") return (100 * (1 - error)).toFixed(2) + "%";
    return metric === "rel_l1" || metric === "rmse" ? error.toFixed(4) : significant(error);
  }
  const label = (metric) => data.metrics.find((m) => m.name === metric).label;
  const at = (m, layer, step) => m.layers.findIndex((l) => l.index === layer) * m.steps.length + m.steps.findIndex((s) => s.index === step);
  const oneStep = (m) => m.steps.length === 1;
  function cellName(m, index) {
    const layer = m.layers[Math.floor(index / m.steps.length)];
    const step = m.steps[index % m.steps.length];
    const name = layer.name ? ` (${layer.name})` : "";
    return `Layer ${layer.index}${name}` + (oneStep(m) ? "" : `, timestep ${step.index}`);
  }
  const cellHash = (m, variant, index) =>
    `#cell=${m.slug}/${m.layers[Math.floor(index / m.steps.length)].index}/${m.steps[index % m.steps.length].index}/${variant}`;

  /* ---- sortable tables ---- */
  function sortKey(text) {
    const number = parseFloat(text);
    return Number.isNaN(number) || !/^[-+]?[\d.]/.test(text) ? text : number;
  }
  const isNaNText = (text) => /^-?nan$/i.test(text);
  function compareText(a, b) {
    const x = sortKey(a), y = sortKey(b);
    if (typeof x === "number" && typeof y === "number") return x - y;
    if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
    return x.localeCompare(y, "en", { numeric: true });
  }
  function sortBy(table, column, order) {
    const body = table.tBodies[0];
    const text = (row) => row.cells[column].textContent;
    const rows = [...body.rows];
    rows.sort((a, b) => {
      // What is not a number stays at the end, whatever the order.
      const last = isNaNText(text(a)) - isNaNText(text(b));
      return last || (order === "descending" ? -1 : 1) * compareText(text(a), text(b)) || a.dataset.order - b.dataset.order;
    });
    body.append(...rows);
    const heads = [...table.tHead.rows].pop().cells;
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", order);
  }
  function headRows(columns, table) {
    const rows = [];
    if (columns.some((c) => c.group)) {
      const row = el("tr");
      for (let c = 0; c < columns.length; ) {
        let end = c + 1;
        while (columns[c].group && end < columns.length && columns[end].group === columns[c].group) ++end;
        row.append(columns[c].group ? el("th", { class: "group", colspan: end - c, scope: "colgroup" }, columns[c].group) : el("td"));
        c = end;
      }
      rows.push(row);
    }
    const row = el("tr");
    columns.forEach((column, c) => {
      const onclick = () => {
        const now = row.cells[c].getAttribute("aria-sort");
        sortBy(table, c, now === "ascending" ? "descending" : "ascending");
      };
      row.append(el("th", { scope: "col", class: column.left ? "left" : "" }, el("button", { type: "button", onclick }, column.title)));
    });
    rows.push(row);
    return rows;
  }
  /* t: {title, columns: [{title, group, left}], rows, best: [[row, column]], notes, link_column, links: [[variant, cell]]} */
  function tableOf(t, m) {
    const table = el("table", { "aria-label": t.title });
    table.append(el("thead", {}, ...headRows(t.columns, table)));
    const best = new Set((t.best || []).map(([r, c]) => r + "," + c));
    const body = el("tbody");
    t.rows.forEach((cells, r) => {
      const row = el("tr", { "data-order": r, class: t.chosen === r ? "chosen" : false });
      cells.forEach((text, c) => {
        const link = t.links && t.links[r] && c === t.link_column ? t.links[r] : null;
        row.append(
          el("td", { class: (t.columns[c].left ? "left" : "") + (best.has(r + "," + c) ? " best" : "") },
            link ? el("a", { href: cellHash(m, ...link) }, text) : text));
      });
      body.append(row);
    });
    table.append(body);
    return el("div", {}, el("h3", {}, t.title), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t.title }, table),
      ...(t.notes || []).map((n) => el("p", { class: "note" }, n)));
  }

  /* ---- colours: the cividis map, readable in grey ---- */
  const STOPS = ["#00204d", "#00336f", "#39486b", "#575d6d", "#707173", "#8a8779", "#a69d75", "#c4b56c", "#e4cf5b", "#ffea46"].map((h) =>
    [1, 3, 5].map((i) => parseInt(h.slice(i, i + 2), 16)));
  function colour(t) {
    const x = Math.min(1, Math.max(0, t)) * (STOPS.length - 1);
    const i = Math.min(STOPS.length - 2, Math.floor(x));
    return STOPS[i].map((v, k) => Math.round(v + (x - i) * (STOPS[i + 1][k] - v)));
  }
  const css = (rgb) => `rgb(${rgb.join(",")})`;
  const ink = ([r, g, b]) => (0.3 * r + 0.59 * g + 0.11 * b < 128 ? "#fff" : "#000");
  /* Maps a value to 0..1: logarithmic for errors, linear and symmetric for differences. */
  function scaleOf(values, difference) {
    const finite = values.filter((v) => !missing(v));
    if (difference) {
      const limit = Math.max(...finite.map(Math.abs), 0) || 1;
      return { low: -limit, high: limit, of: (v) => (v + limit) / (2 * limit) };
    }
    const positive = finite.filter((v) => v > 0);
    const low = positive.reduce((a, b) => Math.min(a, b), Infinity), high = positive.reduce((a, b) => Math.max(a, b), 0);
    if (!(low < high)) return { low: high, high, of: () => 0.5 };
    return { low, high, of: (v) => (v <= 0 ? 0 : Math.log(v / low) / Math.log(high / low)) };
  }

  /* ---- heat map ---- */
  /* Rows are layers and columns timesteps; a model with one step has variants as rows and layers as columns. */
  function gridOf(m) {
    const metric = (v) => m.variants[v].values[state.metric];
    const minus = state.minus >= 0 ? metric(state.minus) : null;
    const value = (v, i) => {
      const a = metric(v)[i];
      return minus === null ? a : missing(a) || missing(minus[i]) ? null : a - minus[i];
    };
    if (oneStep(m)) {
      return {
        yLabel: "variant", xLabel: "layer", xTicks: m.layers.map((l) => l.index), yTicks: m.variants.map((v) => v.label),
        cells: m.variants.map((_, v) => m.layers.map((_, i) => ({ variant: v, index: i, value: value(v, i) }))),
      };
    }
    return {
      yLabel: "layer", xLabel: "timestep (index)", xTicks: m.steps.map((s) => s.index), yTicks: m.layers.map((l) => l.index),
      cells: m.layers.map((_, y) => m.steps.map((_, x) => {
        const index = y * m.steps.length + x;
        return { variant: state.variant, index, value: value(state.variant, index) };
      })),
    };
  }
  function describe(m, cell) {
    const v = m.variants[cell.variant];
    if (missing(v.values.cos_sim[cell.index]) && !v.heads[cell.index]) return `${cellName(m, cell.index)}, ${v.label}: no records`;
    const parts = ["cos_sim", "rel_l1", "rmse", "max_abs"].map((k) => `${label(k)} ${show(k, v.values[k][cell.index])}`);
    if (state.minus >= 0) {
      const digits = missing(cell.value) ? "nan" : significant(state.metric === "cos_sim" ? -cell.value : cell.value);
      parts.unshift(`${label(state.metric)} minus that of ${m.variants[state.minus].label}: ${digits}`);
    }
    return `${cellName(m, cell.index)}, ${v.label}: ${parts.join("; ")}`;
  }
  const read = (px) => { $("reading").textContent = px.title = px.getAttribute("aria-label"); };
  function buildGrid(m) {
    const grid = gridOf(m);
    const difference = state.minus >= 0;
    const flat = grid.cells.flat();
    const pool = state.shared && !difference ? m.variants.flatMap((v) => v.values[state.metric]) : flat.map((c) => c.value);
    const scale = scaleOf(pool, difference);
    const wide = grid.xTicks.length;
    const node = el("div", { class: "grid", role: "grid", "aria-label": `${label(state.metric)} by ${grid.yLabel} and ${grid.xLabel}`,
      style: `grid-template-columns:max-content repeat(${wide}, minmax(${wide > 12 ? "0.8rem" : "2.2rem"}, 1fr))` });
    const every = Math.ceil(wide / 14);
    const pixels = [];
    grid.cells.forEach((line, y) => {
      const row = el("div", { role: "row", style: "display:contents" }, el("div", { class: "tick y", role: "rowheader", title: grid.yTicks[y] }, String(grid.yTicks[y])));
      pixels.push(line.map((cell) => {
        const none = missing(cell.value);
        const rgb = none ? null : colour(scale.of(cell.value));
        const value = none ? "" : difference ? significant(state.metric === "cos_sim" ? -cell.value : cell.value, 2) : show(state.metric, cell.value).replace("%", "");
        const px = el("div", {
          class: none ? "px none" : "px", role: "gridcell", tabindex: -1, "aria-label": describe(m, cell),
          "aria-selected": state.cell !== null && state.cell.index === cell.index && state.cell.variant === cell.variant ? "true" : "false",
          style: none ? false : `background:${css(rgb)};color:${ink(rgb)}`,
          onfocus: (e) => read(e.target),
          onmouseenter: (e) => read(e.target),
          onclick: () => (location.hash = cellHash(m, cell.variant, cell.index)),
        }, wide <= 10 ? value : "");
        row.append(px);
        return px;
      }));
      node.append(row);
    });
    node.append(el("div", {}), ...grid.xTicks.map((t, i) => el("div", { class: "tick" }, i % every === 0 ? String(t) : "")));
    pixels[0][0].tabIndex = 0;
    node.addEventListener("keydown", (event) => {
      const y = pixels.findIndex((line) => line.includes(document.activeElement));
      if (y < 0) return;
      const x = pixels[y].indexOf(document.activeElement);
      const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -x], End: [0, pixels[y].length - 1 - x] };
      if (event.key === "Enter" || event.key === " ") pixels[y][x].click();
      else if (moves[event.key]) {
        const next = (pixels[y + moves[event.key][0]] || [])[x + moves[event.key][1]];
        if (next) {
          pixels[y][x].tabIndex = -1;
          next.tabIndex = 0;
          next.focus();
          read(next); /* a window in the background sends no focus events */
        }
      } else return;
      event.preventDefault();
    });
    const end = (v) => (difference ? significant(state.metric === "cos_sim" ? -v : v) : show(state.metric, v));
    const bar = `linear-gradient(90deg,${STOPS.map(css).join(",")})`;
    return el("div", { class: "heat" }, el("div", { class: "frame" }, node), el("p", { class: "axis" }, grid.xLabel),
      el("div", { class: "legend" }, el("span", {}, end(scale.low)), el("span", { class: "bar", style: `background:${bar}` }), el("span", {}, end(scale.high)),
        el("span", { class: "note" }, difference ? `light: ${m.variants[state.minus].label} is better` : "dark is better; logarithmic")),
      el("p", { id: "reading" }, "Point at a cell, or use the arrow keys; Enter opens it."));
  }
  function select(name, options, value, change) {
    const node = el("select", { onchange: (e) => { change(e.target.value); heatmap(); } });
    for (const [key, text] of options) node.append(el("option", { value: key, selected: String(key) === String(value) }, text));
    return el("label", {}, name, node);
  }
  function heatmap() {
    const m = model();
    const variants = m.variants.map((v, i) => [i, v.label]);
    const box = el("input", { type: "checkbox", checked: state.shared, onchange: (e) => { state.shared = e.target.checked; heatmap(); } });
    const controls = el("div", { class: "controls" });
    if (!oneStep(m)) controls.append(select("Variant", variants, state.variant, (v) => (state.variant = +v)));
    controls.append(
      select("Metric", data.metrics.map((x) => [x.name, x.label]), state.metric, (v) => (state.metric = v)),
      select("Minus", [[-1, "nothing"], ...variants], state.minus, (v) => (state.minus = +v)),
      el("label", { class: "inline" }, box, "same colours for all variants"));
    $("heatmap").replaceChildren(el("h2", {}, "Heat map"), controls, buildGrid(m));
  }

  /* ---- one cell ---- */
  function cellTable(m, index, chosen) {
    const metrics = ["cos_sim", "rel_l1", "rmse", "p50", "p90", "p99", "p999", "max_abs"];
    const titles = ["CosSim (%)", "Rel. L1", "RMSE", "50%", "90%", "99%", "99.9%", "max"];
    const present = m.variants.map((v, i) => [v, i]).filter(([v]) => !missing(v.values.rmse[index]) || v.heads[index]);
    return tableOf({
      title: "All variants in this cell", chosen: present.findIndex(([, i]) => i === chosen), link_column: 0, links: present.map(([, i]) => [i, index]),
      columns: [{ title: "Method", left: true }, ...titles.map((title, i) => ({ title, group: i < 3 ? "" : "|O - O'|" }))],
      rows: present.map(([v]) => [v.label, ...metrics.map((k) => show(k, v.values[k][index]).replace("%", ""))]),
    }, m);
  }
  function headTable(m, index, chosen) {
    const heads = m.variants[chosen].heads[index] || [];
    const total = m.variants[chosen].head_counts[index];
    const notes = heads.length < total ? [`The ${heads.length} heads with the lowest CosSim of ${total}; the run's records hold all.`] : [];
    return tableOf({
      title: `Heads under ${m.variants[chosen].label}`, notes,
      columns: [{ title: "Head" }, { title: "CosSim (%)" }, { title: "Rel. L1" }, { title: "RMSE" }, { title: "max |O - O'|" }],
      rows: heads.map(([head, cos, l1, rmse, max]) => [String(head), show("cos_sim", cos).replace("%", ""), show("rel_l1", l1), show("rmse", rmse), show("max_abs", max)]),
    }, m);
  }
  function cell() {
    const m = model();
    if (state.cell === null) {
      $("cell").replaceChildren(el("h2", {}, "Cell"), el("p", { class: "note" }, "Choose a cell in the heat map or a link in a table."));
      return;
    }
    const { index, variant } = state.cell;
    const step = m.steps[index % m.steps.length];
    const samples = m.variants[variant].samples[index];
    const more = [oneStep(m) ? "" : `timestep value ${significant(step.value, 4)}`, samples > 1 ? `${samples} samples pooled` : ""].filter(Boolean).join(", ");
    $("cell").replaceChildren(el("h2", {}, cellName(m, index)), el("p", { class: "note" }, more),
      headTable(m, index, variant), cellTable(m, index, variant));
  }
  function openHash() {
    const match = /^#cell=([^/]+)\/(\d+)\/(\d+)\/(\d+)$/.exec(location.hash);
    if (!match) return;
    const which = data.models.findIndex((m) => m.slug === match[1]);
    if (which < 0) return;
    const index = at(data.models[which], +match[2], +match[3]);
    const variant = +match[4];
    if (index < 0 || !data.models[which].variants[variant]) return;
    const changed = which !== state.model;
    state.model = which;
    state.variant = variant;
    state.cell = { index, variant };
    if (changed) all();
    else { heatmap(); cell(); }
    $("cell").focus({ preventScroll: true });
    $("cell").scrollIntoView({ block: "start" });
  }

  /* ---- the other sections ---- */
  function stages(s) {
    const colours = s.stages.map((_, i) => css(colour(s.stages.length === 1 ? 0.3 : 0.12 + (0.88 * i) / (s.stages.length - 1))));
    const percent = (x) => (100 * x).toFixed(1) + "%";
    const bars = el("div", { class: "bars" });
    for (const bar of s.bars) {
      const text = s.stages.map((name, i) => `${name} ${percent(bar.shares[i])}`).join(", ") + `, interaction ${percent(bar.interaction)}`;
      const whole = Math.max(1, bar.shares.reduce((a, b) => a + b, 0));
      bars.append(el("span", { class: "name" }, bar.name),
        el("div", { class: "stack", role: "img", "aria-label": text, title: text },
          ...bar.shares.map((x, i) => el("span", { style: `width:${(100 * x) / whole}%;background:${colours[i]}` }))));
    }
    return el("div", {}, el("h3", {}, s.title), el("div", { class: "key" }, ...s.stages.map((name, i) => el("span", {}, el("i", { style: `background:${colours[i]}` }), name))),
      bars, el("p", { class: "note" }, "Squared error with only one stage quantised, as a share of the squared error with all of them; what is missing to the full width is interaction of stages. Where the shares exceed the whole (stages cancel) the bar shows their proportions."));
  }
  function summary() {
    const m = model();
    $("summary").replaceChildren(
      ...data.remarks.map((r) => el("p", { class: "remark" }, r)),
      el("h2", {}, m.title), el("p", { class: "note" }, `${m.extent}; captures: ${m.captures.join(", ")}`),
      el("div", { class: "tiles" }, ...m.tiles.map(([value, text]) => el("div", { class: "tile" }, el("b", {}, value), el("span", {}, text)))),
      el("ul", {}, ...m.findings.map((f) => el("li", {}, f))));
  }
  function all() {
    const m = model();
    [...$("models").children].forEach((b, i) => b.setAttribute("aria-pressed", String(i === state.model)));
    summary();
    $("tables").replaceChildren(el("h2", {}, "Tables"), ...m.tables.filter((t) => t.suite).map((t) => tableOf(t, m)));
    heatmap();
    cell();
    $("details").replaceChildren(el("h2", {}, "Details"), ...m.stages.map(stages), ...m.tables.filter((t) => !t.suite).map((t) => tableOf(t, m)),
      ...(data.speed ? [tableOf(data.speed, m)] : []));
  }
  function choose(index) {
    if (index === state.model) return;
    state.model = index;
    state.variant = model().first;
    state.minus = -1;
    state.cell = null;
    all();
  }

  /* #selftest: sorts, moves through the heat map and opens a cell, and says so in the root element. */
  function selftest() {
    const fail = [];
    const check = (what, ok) => { if (!ok) fail.push(what); };
    const table = document.querySelector("#tables table, #details table");
    const column = 1;
    const texts = () => [...table.tBodies[0].rows].map((r) => r.cells[column].textContent);
    const button = [...table.tHead.rows].pop().cells[column].querySelector("button");
    for (const sign of [1, -1]) {
      button.click();
      const values = texts().filter((t) => !isNaNText(t)).map(parseFloat);
      check("sort " + sign, values.every((v, i) => i === 0 || sign * (v - values[i - 1]) >= 0));
    }
    check("aria-sort", table.querySelector("th[aria-sort=descending]") !== null);
    const first = document.querySelector(".px");
    first.focus();
    first.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
    check("arrow keys", document.querySelectorAll(".px").length < 2 || document.activeElement !== first);
    check("reading", /CosSim/.test($("reading").textContent));
    const link = document.querySelector("td a");
    location.hash = link.getAttribute("href");
    openHash();
    check("cell", document.querySelectorAll("#cell table").length === 2);
    document.documentElement.dataset.selftest = fail.length ? "failed: " + fail.join(", ") : "passed";
  }

  /* ---- start ---- */
  window.addEventListener("error", (e) => (document.documentElement.dataset.error = e.message));
  document.title = data.title;
  $("subtitle").textContent = data.models.map((m) => m.title).join(" · ");
  if (data.models.length > 1) {
    $("models").append(...data.models.map((m, i) => el("button", { type: "button", onclick: () => choose(i) }, m.title)));
  }
  state.variant = model().first;
  all();
  $("provenance").append(el("h2", {}, "Provenance"), ...data.provenance.map((run) =>
    el("dl", {}, ...run.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, name === "Command" ? el("code", {}, value) : value)]))));
  const theme = (name) => { document.documentElement.dataset.theme = name; };
  const wish = /[?&]theme=(dark|light)/.exec(location.search);
  if (wish) theme(wish[1]);
  $("theme").addEventListener("click", () => {
    const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    theme(dark ? "light" : "dark");
  });
  window.addEventListener("hashchange", openHash);
  if (location.hash === "#selftest") selftest();
  else openHash();
})();

(() => {
  "use strict";
  const root = document.documentElement;
  root.dataset.script = "";
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const parsed = id => { const at = document.getElementById(id); return at ? JSON.parse(at.textContent) : null; };

  // --- definitions: under the pointer and under the keyboard's focus -------------------------------
  const tip = document.getElementById("tip");
  for (const at of all("[title]")) {
    at.dataset.said = at.title;
    at.removeAttribute("title");
  }
  const explain = at => {
    tip.textContent = at.dataset.said;
    tip.hidden = false;
    const box = at.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const below = box.bottom + 8 + own.height < innerHeight;
    tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - own.width - 8))}px`;
    tip.style.top = `${below ? box.bottom + 8 : Math.max(8, box.top - own.height - 8)}px`;
    at.setAttribute("aria-describedby", "tip");
  };
  const quiet = () => { tip.hidden = true; };
  for (const [on, off] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
    document.addEventListener(on, event => {
      const at = event.target.closest?.("[data-said]");
      if (at) explain(at);
    });
    document.addEventListener(off, quiet);
  }
  document.addEventListener("keydown", event => { if (event.key === "Escape") quiet(); });
  addEventListener("scroll", () => {  // the keyboard moves the page to what it reaches
    const at = document.activeElement?.closest?.("[data-said]");
    if (at && at.matches(":focus-visible")) explain(at); else quiet();
  }, { passive: true });

  // --- tables ------------------------------------------------------------------------------------
  const shown = cell => cell.textContent.trim();
  const worth = cell => {
    if (cell.dataset.value) return Number(cell.dataset.value);
    const number = Number.parseFloat(shown(cell));
    return cell.dataset.value === undefined && Number.isFinite(number) ? number : shown(cell);
  };
  const nothing = value => value === "" || value === "—" || value === "not finite";
  const order = (a, b) => typeof a === "number" && typeof b === "number"
    ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  for (const table of all("table.sortable")) {
    const titles = all("thead th", table);
    titles.forEach((title, column) => title.querySelector("button")?.addEventListener("click", () => {
      const up = title.getAttribute("aria-sort") !== "ascending";
      titles.forEach(other => other.removeAttribute("aria-sort"));
      title.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = all("tbody tr", table).map(row => [worth(row.cells[column]), row]);
      rows.sort(([a], [b]) => nothing(a) - nothing(b) || (up ? order(a, b) : order(b, a)));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    }));
  }

  // --- charts ------------------------------------------------------------------------------------
  const pictures = window.vegaEmbed ? parsed("pictures") : null;
  const hidden = new Set();
  const charts = [];  // { panel, at, view, state }
  const X = { tokens: "tokens learned from, per seed", update: "updates", seconds: "seconds of training" };

  const rowsOf = columns => {
    const names = Object.keys(columns), count = names.length ? columns[names[0]].length : 0;
    return Array.from({ length: count }, (_, i) => Object.fromEntries(names.map(name => [name, columns[name][i]])));
  };
  const set = (spec, name, value) => { spec.params.find(each => each.name === name).value = value; };

  // A learning curve with the axes that its reader chose.
  const adapt = (spec, state, rows) => {
    const { logarithmic, domain } = spec.usermeta;
    const log = state.y ? state.y === "log" : logarithmic;
    const positive = rows.map(row => row.iqm).filter(value => value > 0);
    const least = Math.min(...positive);
    let ends = domain;
    if (log && ends && !logarithmic) ends = [least / 1.15, Math.max(ends[1], least * 2)];
    if (!log && ends && logarithmic) ends = [0, Math.max(...rows.map(row => row.iqm).filter(value => value <= ends[1]), 0) * 1.05];
    set(spec, "x_field", state.x);
    set(spec, "x_log", state.x_log);
    set(spec, "y_log", log);
    if (ends) { set(spec, "y_low", ends[0]); set(spec, "y_high", ends[1]); }
    spec.transform.find(each => each.window).frame = [-state.smooth, state.smooth];
    for (const { encoding } of spec.layer) {
      if (encoding.x) {
        encoding.x.title = X[state.x];
        encoding.x.scale = { type: state.x_log ? "log" : "linear", nice: false };
      }
      if (encoding.y) {
        encoding.y.scale = { type: log && positive.length ? "log" : "linear", nice: false };
        if (ends) encoding.y.scale.domain = ends;
      }
    }
  };

  const draw = async chart => {
    const spec = structuredClone(chart.panel.spec), rows = rowsOf(chart.panel.columns);
    spec.data = { values: rows };
    set(spec, "hidden", [...hidden]);
    if (chart.panel.learning) adapt(spec, chart.state, rows);
    chart.view?.finalize();
    const options = { renderer: "svg", actions: false, logLevel: 1, tooltip: { theme: "fdiv" } };
    chart.view = (await window.vegaEmbed(chart.at, spec, options)).view;
  };

  const save = (text, name, type) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const cell = value => {
    const text = value === null || value === undefined ? "" : String(value);
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const commaSeparated = rows => {
    const names = [...new Set(rows.flatMap(Object.keys))];
    return [names, ...rows.map(row => names.map(name => row[name]))].map(line => line.map(cell).join(",")).join("\r\n") + "\r\n";
  };
  const numbers = picture => picture.panels.flatMap(panel =>
    rowsOf(panel.columns).map(row => panel.title ? { panel: panel.title, ...row } : row));

  const drawAll = async () => {
    for (const figure of all("figure[data-picture]")) {
      const picture = pictures[Number(figure.dataset.picture)];
      const state = { x: "tokens", x_log: false, y: "", smooth: 0 };
      const own = all(".chart", figure).map((at, i) => ({ panel: picture.panels[i], at, view: null, state }));
      charts.push(...own);
      const form = figure.querySelector("form.controls");
      form?.addEventListener("input", () => {
        Object.assign(state, { x: form.x.value, x_log: form.x_log.checked, y: form.y.value, smooth: Number(form.smooth.value) });
        form.querySelector("output").textContent = form.smooth.value;
        own.forEach(draw);
      });
      for (const link of all("[data-rows]", figure)) {
        link.addEventListener("click", event => {
          event.preventDefault();
          const rows = numbers(picture), csv = link.dataset.rows === "csv";
          save(csv ? commaSeparated(rows) : JSON.stringify(rows, null, 1), link.download, csv ? "text/csv" : "application/json");
        });
      }
      for (const chart of own) await draw(chart);
      const still = figure.querySelector(".static");
      if (still && own.length) still.hidden = true;
    }
  };

  const files = parsed("table-files");
  for (const link of all("[data-text]")) {
    link.addEventListener("click", event => {
      event.preventDefault();
      save(files[link.dataset.text], link.download, "text/plain");
    });
  }

  // --- methods -----------------------------------------------------------------------------------
  const boxes = all(".chips input");
  const show = () => {
    hidden.clear();
    boxes.filter(box => !box.checked).forEach(box => hidden.add(box.value));
    for (const at of all("[data-method]")) at.hidden = hidden.has(at.dataset.method);
    for (const { view } of charts) view?.signal("hidden", [...hidden]).runAsync();
  };
  boxes.forEach(box => box.addEventListener("change", show));
  for (const button of all("[data-all]")) {
    button.addEventListener("click", () => {
      boxes.forEach(box => { box.checked = Boolean(button.dataset.all); });
      show();
    });
  }

  // --- colours, and paper -------------------------------------------------------------------------
  const theme = document.getElementById("theme"), themes = ["system", "dark", "light"];
  theme.addEventListener("click", () => {
    const next = themes[(themes.indexOf(root.dataset.theme ?? "system") + 1) % themes.length];
    if (next === "system") delete root.dataset.theme; else root.dataset.theme = next;
    theme.textContent = `colours: ${next}`;
    theme.setAttribute("aria-label", `colours: ${next}`);
  });
  addEventListener("beforeprint", () => all("details").forEach(at => { at.open = true; }));
  if (innerWidth <= 1000) all("nav details").forEach(at => { at.open = false; });

  if (boxes.some(box => !box.checked)) show();  // as a browser kept them over a reload
  const end = error => { root.dataset.ready = error ? String(error) : "yes"; };
  if (pictures) drawAll().then(() => end(), error => { console.error(error); end(error); });
  else end();
})();

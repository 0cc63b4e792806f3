// The page's own behaviour: draw what comes into view, hide and point at backends, sort and filter tables, dark and light.
const drawing = JSON.parse(document.getElementById("drawing").textContent);
const root = document.documentElement;
const views = new Map(); // a panel's element: its Vega view
const hidden = new Set(); // backends, in all figures alike

const fill = (spec, holes) => {
  if (Array.isArray(spec)) return spec.map((each) => fill(each, holes));
  if (spec && typeof spec === "object") return Object.fromEntries(Object.entries(spec).map(([k, v]) => [k, fill(v, holes)]));
  return typeof spec === "string" && spec[0] === "\u0001" ? holes[spec.slice(1)] : spec;
};
const rows = ({ columns }) => {
  const names = Object.keys(columns);
  return columns[names[0]].map((_, at) =>
    Object.fromEntries(names.filter((name) => columns[name][at] !== null).map((name) => [name, columns[name][at]])));
};

function formatTooltip(fields, escape) { // vega-tooltip's own would show what a mark has not as "undefined"
  const lines = Object.entries(fields).filter(([, value]) => !["", "undefined", "null"].includes(value));
  const line = ([name, value]) => `<tr><td class="key">${escape(name)}</td><td class="value">${escape(value)}</td></tr>`;
  return `<table>${lines.map(line).join("")}</table>`;
}

async function draw(element) {
  seen.unobserve(element);
  const figure = drawing.figures[element.dataset.figure];
  const panel = figure.panels[element.dataset.panel];
  const spec = {
    ...fill(drawing.specs[panel.spec], panel.holes),
    $schema: "https://vega.github.io/schema/vega-lite/v6.json", // a name: nothing is fetched
    width: "container", padding: 2,
    params: drawing.params, datasets: { values: rows(figure) }, description: `${panel.title}. ${figure.alt_text}`,
    config: drawing.themes[root.dataset.theme],
  };
  try {
    views.get(element)?.finalize();
    const tooltip = { theme: root.dataset.theme, formatTooltip };
    const { view } = await vegaEmbed(element, spec, { renderer: "svg", actions: false, logLevel: 1, tooltip });
    views.set(element, view);
    view.addEventListener("pointerover", (_, item) => focusOn(element.dataset.figure, item?.datum?.backend));
    view.addEventListener("pointerout", () => focusOn(element.dataset.figure, ""));
    await view.signal("hidden", [...hidden]).runAsync();
    element.dataset.drawn = root.dataset.theme;
  } catch (error) {
    element.textContent = drawing.words.not_drawn;
    console.error(error);
  }
}
const seen = new IntersectionObserver(
  (entries) => entries.filter((each) => each.isIntersecting).forEach((each) => draw(each.target)), { rootMargin: "400px" });
const panels = document.querySelectorAll(".panel");
panels.forEach((each) => seen.observe(each));
window.drawAll = () => Promise.all([...panels].filter((each) => !each.dataset.drawn).map(draw)); // for printing and pictures
addEventListener("beforeprint", window.drawAll);

function focusOn(figure, backend) {
  for (const [element, view] of views)
    if (element.dataset.figure === figure) view.signal("focus", backend ?? "").runAsync();
}
for (const button of document.querySelectorAll(".legend button")) {
  const { backend } = button.dataset;
  const figure = button.closest("figure").id;
  button.addEventListener("click", () => {
    hidden.has(backend) ? hidden.delete(backend) : hidden.add(backend);
    for (const each of document.querySelectorAll(".legend button"))
      each.setAttribute("aria-pressed", !hidden.has(each.dataset.backend));
    for (const view of views.values()) view.signal("hidden", [...hidden]).runAsync();
  });
  for (const [begin, end] of [["pointerenter", "pointerleave"], ["focus", "blur"]]) {
    button.addEventListener(begin, () => focusOn(figure, backend));
    button.addEventListener(end, () => focusOn(figure, ""));
  }
}

const dark = matchMedia("(prefers-color-scheme: dark)");
function theme(name) {
  root.dataset.theme = name;
  for (const element of views.keys()) { delete element.dataset.drawn; seen.observe(element); }
}
theme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
document.getElementById("theme").addEventListener("click", () => theme(root.dataset.theme === "dark" ? "light" : "dark"));

for (const wrapper of document.querySelectorAll(".table")) {
  const body = wrapper.querySelector("tbody");
  const lines = [...body.rows];
  const heads = [...wrapper.querySelectorAll("thead th")];
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const sorted = lines.map((line) => [line, line.cells[column].dataset.n, line.cells[column].textContent]);
    sorted.sort(([, n, a], [, m, b]) => {
      if (n === undefined || m === undefined) return n !== m ? (n === undefined) - (m === undefined) : (down ? -1 : 1) * a.localeCompare(b);
      return (down ? -1 : 1) * (n - m);
    });
    body.append(...sorted.map(([line]) => line));
  }));
  const input = wrapper.querySelector("input");
  input?.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const line of lines) {
      line.hidden = !words.every((word) => line.textContent.toLowerCase().includes(word));
      shown += !line.hidden;
    }
    const text = drawing.words.rows_shown.replace("{shown}", shown).replace("{total}", lines.length);
    wrapper.querySelector("output").textContent = text;
  });
}

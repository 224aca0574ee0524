
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = id => document.getElementById(id);
  if (!$("failures")) return;
  const articles = [...document.querySelectorAll("article")], rows = [...document.querySelectorAll("#rest tbody tr")];
  const root = document.documentElement;

  // Pictures: the photograph is stored once a failure and laid under its other panels; thumbnails once for all failures.
  for (const article of articles) {
    const photo = article.querySelector(".photo");
    if (!photo) continue;
    const outline = article.querySelector(".outline");
    const panels = article.querySelector(".panels");
    panels.classList.toggle("tiny", Number(panels.dataset.w) < 200);
    for (const stack of article.querySelectorAll('.panels figure:not([data-layer="image"]) .stack')) {
      const under = photo.cloneNode();
      under.alt = "";
      stack.prepend(under);
      if (outline) stack.append(outline.cloneNode());
    }
  }
  for (const image of document.querySelectorAll("[data-thumb]")) image.src = data.thumbs[Number(image.dataset.thumb)];

  // Filters
  const option = (select, value, text) => {
    const entry = document.createElement("option");
    entry.value = value;
    entry.textContent = text;
    select.append(entry);
  };
  const filters = ["cause", "class", "pair", "severity", "group", "verdict"];
  for (const name of filters) {
    const counts = new Map();
    for (const item of data.items) counts.set(item[name], (counts.get(item[name]) || 0) + 1);
    option($(name), "*", "any");
    for (const value of [...counts.keys()].sort((a, b) => a.localeCompare(b, undefined, {numeric: true})))
      option($(name), "=" + value, `${value || (name === "verdict" ? "none yet" : "none")} (${counts.get(value)})`);
    $(name).closest("label").hidden = counts.size < 2;
  }
  const orders = {
    "worst first": (a, b) => a.rank - b.rank,
    "best first": (a, b) => b.rank - a.rank,
    "name": (a, b) => a.id.localeCompare(b.id, undefined, {numeric: true}),
    "cause": (a, b) => a.cause.localeCompare(b.cause) || a.rank - b.rank,
    "worst class": (a, b) => a.class.localeCompare(b.class) || a.rank - b.rank,
    "most suspicious label": (a, b) => (b.label ?? -1) - (a.label ?? -1) || a.rank - b.rank,
    "largest repair": (a, b) => (b.gain ?? -1) - (a.gain ?? -1) || a.rank - b.rank,
    "most confident": (a, b) => (b.confidence ?? -1) - (a.confidence ?? -1) || a.rank - b.rank,
  };
  for (const name of Object.keys(orders)) option($("sort"), name, name);

  const nodes = [...articles, ...rows], item = node => data.items[Number(node.dataset.i)];
  // What is said of the failure, without labels and the legend, which all have in common.
  const said = "h3, .chip, .evidence, .suggestion, .given, dd, .nearest figcaption, td";
  const texts = nodes.map(node => [...node.querySelectorAll(said)].map(part => part.textContent).join(" ").toLowerCase());
  let visible = articles;
  const bound = (id, otherwise) => $(id).value === "" || Number.isNaN(Number($(id).value)) ? otherwise : Number($(id).value);
  const apply = () => {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean), low = bound("low", 0), high = bound("high", 1);
    let shown = 0;
    nodes.forEach((node, k) => {
      const it = item(node);
      const pass = filters.every(name => $(name).value === "*" || $(name).value === "=" + it[name])
        && (it.miou === null || (it.miou >= low - 1e-9 && it.miou <= high + 1e-9)) && words.every(word => texts[k].includes(word));
      node.hidden = !pass;
      shown += pass;
    });
    visible = [...$("failures").children].filter(node => !node.hidden);
    const rest = $("rest");
    if (rest) rest.hidden = rows.every(row => row.hidden);
    $("count").textContent = `${shown} of ${nodes.length} failures`;
    $("nothing").hidden = shown > 0;
  };
  const order = () => {
    const compare = orders[$("sort").value];
    for (const [list, parent] of [[articles, $("failures")], [rows, document.querySelector("#rest tbody")]])
      if (parent) parent.append(...[...list].sort((a, b) => compare(item(a), item(b))));
    visible = [...$("failures").children].filter(node => !node.hidden);
  };
  const controls = $("controls");
  controls.addEventListener("submit", event => event.preventDefault());
  controls.addEventListener("input", event => {
    if (event.target.id === "sort") order();
    else if (event.target.id === "opacity") root.style.setProperty("--alpha", event.target.value);
    else if (event.target.id === "outlines") root.classList.toggle("plain", !event.target.checked);
    else apply();
  });
  controls.addEventListener("reset", () => setTimeout(() => {
    root.style.removeProperty("--alpha");
    root.classList.remove("plain");
    order();
    apply();
  }));
  controls.hidden = false;
  apply();

  // One picture large
  const large = $("large"), view = large.querySelector(".view"), layers = ["image", "truth", "prediction", "errors", "confidence"];
  const has = (which, name) => which.querySelector(`[data-layer="${name}"]`) !== null;
  let article = null, layer = "image";
  for (const name of layers) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => enlarge(article, name));
    large.querySelector(".layers").append(button);
  }
  const fit = () => {
    const stack = view.querySelector(".stack");
    if (!stack) return;
    const {w, h} = article.querySelector(".panels").dataset, scale = Math.min(view.clientWidth / w, view.clientHeight / h);
    stack.style.width = `${Math.floor(w * scale)}px`;
    stack.style.height = `${Math.floor(h * scale)}px`;
    view.classList.toggle("coarse", scale > 2);
    view.classList.toggle("tiny", w < 200);
  };
  const enlarge = (which, name) => {
    article = which;
    layer = has(article, name) ? name : "errors";
    const pictured = visible.filter(node => node.querySelector(".panels")), at = pictured.indexOf(article);
    large.querySelector("h3").textContent = article.querySelector("h3").textContent;
    for (const button of large.querySelectorAll(".layers button")) {
      button.setAttribute("aria-pressed", String(button.textContent === layer));
      button.disabled = !has(article, button.textContent);
    }
    large.querySelector(".previous").disabled = at <= 0;
    large.querySelector(".next").disabled = at < 0 || at === pictured.length - 1;
    view.dataset.layer = layer;
    view.replaceChildren(article.querySelector(`[data-layer="${layer}"] .stack`).cloneNode(true));
    large.querySelector(".legend")?.remove();
    large.append(article.querySelector(".legend").cloneNode(true));
    if (!large.open) large.showModal();
    fit();
  };
  const step = by => {
    const pictured = visible.filter(node => node.querySelector(".panels")), next = pictured[pictured.indexOf(article) + by];
    if (next) enlarge(next, layer);
  };
  $("failures").addEventListener("click", event => {
    const figure = event.target.closest("[data-layer]");
    if (figure && event.target.closest("button")) enlarge(figure.closest("article"), figure.dataset.layer);
  });
  large.querySelector(".close").addEventListener("click", () => large.close());
  large.querySelector(".previous").addEventListener("click", () => step(-1));
  large.querySelector(".next").addEventListener("click", () => step(1));
  large.addEventListener("click", event => { if (event.target === large) large.close(); });
  large.addEventListener("close", () => article && article.scrollIntoView({block: "nearest"}));
  large.addEventListener("keydown", event => {
    const turn = {ArrowLeft: -1, ArrowRight: 1}[event.key], by = {PageUp: -1, PageDown: 1}[event.key];
    const known = layers.filter(name => has(article, name));
    if (turn) enlarge(article, known[(known.indexOf(layer) + turn + known.length) % known.length]);
    if (by) step(by);
    if (turn || by) event.preventDefault();
  });
  addEventListener("resize", () => large.open && fit());
})();

"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // A page from disk may have no storage.
  const remembered = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
  const remember = (key, value) => { try { localStorage.setItem(key, value); } catch { /* none */ } };

  const blocks = all(".filtered").map((block) => ({
    rows: all(".row", block),
    name: block.querySelector(".by-name"),
    kind: block.querySelector(".by-kind"),
    differs: block.querySelector(".differs-only"),
    shown: block.querySelector(".shown"),
    details: JSON.parse(block.querySelector(".details")?.textContent ?? "[]"),
    block,
  }));

  function filter(block) {
    const wanted = block.name.value.trim().toLowerCase();
    const kind = block.kind.value;
    const differs = block.differs !== null && block.differs.checked;
    let count = 0;
    for (const row of block.rows) {
      const fits = (!wanted || named(row).includes(wanted)) && (!kind || row.dataset.kind === kind) &&
        (!differs || row.classList.contains("differs"));
      row.hidden = !fits;
      const button = row.querySelector(".open");
      if (row.more) row.more.hidden = !fits || button.getAttribute("aria-expanded") !== "true";
      if (fits) count += 1;
    }
    const total = block.rows.length;
    block.shown.textContent = root.lang === "en" ? `${count} of ${total} shown` : `显示 ${count} / ${total}`;
  }

  function named(row) {
    row.words ??= all("code, .note", row).map((each) => each.textContent).join(" ").toLowerCase();
    return row.words;
  }

  // A row's details are made when they are first asked for: of 500 layers they are most of a page.
  function open(button, isOpen) {
    const row = button.closest(".row");
    button.setAttribute("aria-expanded", String(isOpen));
    if (isOpen && !row.more) {
      const { rows, details } = blocks.find((each) => each.rows.includes(row));
      const filled = document.getElementById("detail").content.cloneNode(true);
      const { settings, statistics } = details[rows.indexOf(row)];
      settings.forEach(([name, port, reference, differs]) => {
        fill(filled.querySelector(".settings"), [name, port, reference]).classList.toggle("differs", differs);
      });
      statistics.forEach((each) => fill(filled.querySelector(".statistics"), each));
      row.more = document.createElement("tr");
      row.more.className = "more";
      row.more.append(document.createElement("td"));
      row.more.firstChild.colSpan = row.cells.length;
      row.more.firstChild.append(filled);
      row.after(row.more);
    }
    if (row.more) row.more.hidden = !isOpen || row.hidden;
  }

  function fill(table, values) {
    const row = table.tBodies[0].insertRow();
    values.forEach((value, index) => {
      const cell = document.createElement(index ? "td" : "th");
      if (!index) cell.scope = "row";
      cell.textContent = value;
      row.append(cell);
    });
    return row;
  }

  function setLanguage(language) {
    root.lang = language;
    for (const each of all("[data-attribute]")) {
      each.setAttribute(each.dataset.attribute, language === "en" ? each.dataset.en : each.dataset.zh);
    }
    document.title = document.querySelector(`#verdict .l[lang="${language}"]`).textContent.trim();
    blocks.forEach(filter);
  }

  function setTheme(theme) { root.dataset.theme = theme; }

  function choose(name, value, set) {
    for (const input of all(`input[name="${name}"]`)) {
      input.checked = input.value === value;
      input.addEventListener("change", () => { set(input.value); remember(`alignment-${name}`, input.value); });
    }
    set(value);
  }

  // A link to a layer: of this page, or by the layer's plain name.
  function go() {
    let name = location.hash.slice(1);
    if (!name) return;
    try { name = decodeURIComponent(name); } catch { /* no encoding */ }
    const target = document.getElementById(name) ?? all(".row").find((row) => row.querySelector("code").textContent === name);
    if (!target) return;
    for (let each = target; each; each = each.parentElement) {
      if (each.tagName === "DETAILS") each.open = true;
    }
    const block = blocks.find((each) => each.rows.includes(target));
    if (block) {
      if (target.hidden) {
        block.name.value = "";
        block.kind.value = "";
        if (block.differs) block.differs.checked = false;
        filter(block);
      }
      const button = target.querySelector(".open");
      if (button) open(button, true);
    }
    target.scrollIntoView({ block: block ? "center" : "start" });
    target.focus({ preventScroll: true });
  }

  for (const block of blocks) {
    block.block.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    block.block.addEventListener("input", () => filter(block));
    block.block.addEventListener("click", (event) => {
      const button = event.target.closest(".open");
      if (button) open(button, button.getAttribute("aria-expanded") !== "true");
      const link = event.target.closest("th a");
      if (link && link.hash === location.hash) go();
    });
  }

  const ofBrowser = navigator.language.toLowerCase().startsWith("zh") ? "zh-Hans" : "en";
  const languages = ["en", "zh-Hans"];
  const themes = ["auto", "light", "dark"];
  const known = (value, values, otherwise) => (values.includes(value) ? value : otherwise);
  choose("language", known(remembered("alignment-language"), languages, ofBrowser), setLanguage);
  choose("theme", known(remembered("alignment-theme"), themes, "auto"), setTheme);
  addEventListener("hashchange", go);
  go();

  // On paper nothing can be opened.
  const opened = [];
  addEventListener("beforeprint", () => {
    for (const each of all(".left-out:not([open])")) { each.open = true; opened.push(each); }
  });
  addEventListener("afterprint", () => { for (const each of opened.splice(0)) each.open = false; });
})();

"use strict";
(() => {
  // Light or dark: the system's choice until the button is pressed; remembered where that is allowed.
  const root = document.documentElement, theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => {
    theme.textContent = dark() ? "Light" : "Dark";
    theme.setAttribute("aria-pressed", String(dark()));
  };
  try { const kept = localStorage.getItem("theme"); if (kept) root.dataset.theme = kept; } catch { /* a file */ }
  label();
  system.addEventListener("change", label);
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a file */ }
    label();
  });

  // Tables: by the first number of a cell where there is one; cells without a value stay last.
  const value = (row, column) => row.cells[column].textContent.trim();
  const number = (text) => (/^[+-]?\d/.test(text) ? parseFloat(text.replaceAll(",", "")) : NaN);
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows];
      const numeric = rows.some((row) => !Number.isNaN(number(value(row, column))));
      const empty = (row) => row.cells[column].classList.contains("none") ||
        (numeric && Number.isNaN(number(value(row, column))));
      rows.sort((a, b) => {
        if (empty(a) || empty(b)) return empty(a) - empty(b);
        const order = numeric
          ? number(value(a, column)) - number(value(b, column))
          : value(a, column).localeCompare(value(b, column));
        return down ? -order : order;
      });
      body.append(...rows);
    }));
  }

  // Pictures: a press gives one the whole width, another takes it back.
  for (const zoom of document.querySelectorAll(".zoom")) {
    zoom.addEventListener("click", () => zoom.parentElement.classList.toggle("large"));
  }

  // Several views of one figure, such as error and ECE.
  for (const views of document.querySelectorAll(".views")) {
    const buttons = [...views.querySelectorAll("button")];
    buttons.forEach((button) => button.addEventListener("click", () => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      for (const view of views.parentElement.querySelectorAll("[data-view]")) {
        view.hidden = view.dataset.view !== button.dataset.shows;
      }
    }));
  }
})();

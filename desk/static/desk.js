// Keys and dialogs of the review desk. Every key presses a button or follows a link that is on the
// page, so that keyboard and mouse do the same.
"use strict";

const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// ---- the current row or alert ----

const ITEMS = "#rows > tr[data-case], #case article[data-alert]";
let place = 0;

function items() {
  return all(ITEMS);
}

function current() {
  return find(`:is(${ITEMS}).is-current`);
}

function choose(index, { focus = true } = {}) {
  const list = items();
  if (!list.length) return;
  place = Math.max(0, Math.min(index, list.length - 1));
  for (const item of list) {
    item.classList.remove("is-current");
    item.removeAttribute("aria-current");
  }
  const item = list[place];
  item.classList.add("is-current");
  item.setAttribute("aria-current", "true");
  if (focus) {
    (find("a.account", item) || item).focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
  }
  describeBar();
}

// After a swap the same place is current again; on a case, the first alert that waits.
function chooseAgain({ focus }) {
  const list = items();
  if (find("#case")) {
    const named = list.findIndex((item) => `#${item.id}` === location.hash);
    const waiting = list.findIndex((item) => item.matches(".is-waiting, .is-proposed"));
    place = !focus && named >= 0 ? named : Math.max(waiting, 0);
  }
  choose(place, { focus });
}

// ---- the bar of the list: decides what is selected, or else the current case ----

function selected() {
  return all('#rows input[name="case"]:checked');
}

function describeBar() {
  const bar = find("#bar");
  if (!bar) return;
  const count = selected().length;
  const row = current();
  const box = row && find('input[name="case"]', row);
  find("#bar-about").textContent = count
    ? `${count} selected`
    : row
      ? `Case ${row.dataset.case}`
      : "No case";
  find("#bar-claim").hidden = count > 0 || !box;
  for (const button of all('button[name="verdict"]', bar)) button.disabled = !count && !box;
}

async function actOnRow(row, action, more = {}) {
  const form = find("#bulk");
  const id = row.dataset.case;
  const values = { from: "queue", ...more };
  const shown = find(`input[name="shown-${id}"]`, row);
  if (shown) values[shown.name] = shown.value;
  const note = find('input[name="note"]', form);
  if (note && action === "decide") values.note = note.value;
  const query = new URL(form.action).search;
  await htmx.ajax("POST", `/cases/${id}/${action}${query}`, {
    source: find("#bar"),
    target: "#list",
    swap: "outerHTML",
    values,
  });
}

document.addEventListener(
  "submit",
  (event) => {
    const button = event.submitter;
    const isCurrent = event.target.id === "bulk" && !selected().length;
    if (!isCurrent || !button || !current()) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    actOnRow(current(), "decide", { verdict: button.value });
  },
  true,
);

// ---- keys ----

function isTyping(target) {
  return target.closest("input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable]");
}

function canPress(each) {
  return !each.disabled && !each.hidden && !each.closest("details:not([open])");
}

function press(selector, within = document) {
  const found = within && all(selector, within).find(canPress);
  if (found) found.click();
  return Boolean(found);
}

function decide(verdict, isAll) {
  if (isAll && press(`[data-key="${verdict[0].toUpperCase()}"]`)) return true;
  const bar = find("#bar");
  if (bar) return press(`button[value="${verdict}"]`, bar);
  return press(`button[value="${verdict}"], form.decide button[value="${verdict}"]`, current());
}

function putOff() {
  const menu = find("#case details.menu");
  if (!menu) return;
  menu.open = true;
  find('input[type="date"]', menu)?.focus();
}

function toggleChange() {
  const change = current() && find("details.change", current());
  if (!change) return;
  change.open = !change.open;
  find("summary", change).focus();
}

function closeMenus(target) {
  for (const menu of all("details.menu[open], details.more-filters[open]")) {
    if (!target || !menu.contains(target)) menu.open = false;
  }
}

const KEYS = {
  j: () => choose(place + 1),
  k: () => choose(place - 1),
  f: () => decide("fraud"),
  g: () => decide("genuine"),
  u: () => decide("unsure"),
  F: () => decide("fraud", true),
  G: () => decide("genuine", true),
  U: () => decide("unsure", true),
  y: () => press('[data-key="y"]', current()),
  r: () => press('[data-key="r"]', current()),
  v: toggleChange,
  s: putOff,
  c: () => press("#bar-claim") || press('[data-key="c"]'),
  n: () => press('[data-key="n"]'),
  z: () => press('[data-key="z"]'),
  q: () => press('[data-key="q"]'),
  x: () => press('input[name="case"]', current()),
  e: () => (find('form input[name="note"]', current() || document) || find("#bar input"))?.focus(),
  "/": () => find("#search")?.focus(),
  "?": () => showDialog("help"),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.repeat && !"jk".includes(event.key)) return;
  if (isTyping(event.target)) {
    if (event.key === "Escape") {
      event.target.blur();
      closeMenus();
    }
    return;
  }
  if (find("dialog[open]")) return;
  if (event.key === "Enter") {
    if (!event.target.closest("a, button, summary, input")) press("a.account", current());
    return;
  }
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

// ---- dialogs ----

function showDialog(id) {
  const dialog = document.getElementById(id);
  if (dialog && !dialog.open) dialog.showModal();
}

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-opens]");
  if (opener) showDialog(opener.dataset.opens);
  const closer = event.target.closest("dialog [data-closes]");
  if (closer) {
    event.preventDefault();
    closer.closest("dialog").close();
  }
  if (event.target.closest("#bar-claim") && current()) actOnRow(current(), "claim");
  closeMenus(event.target);
  const item = event.target.closest(ITEMS);
  if (item) choose(items().indexOf(item), { focus: false });
});

document.addEventListener("focusin", (event) => {
  const item = event.target.closest(ITEMS);
  if (item && item !== current()) choose(items().indexOf(item), { focus: false });
});

document.addEventListener("change", (event) => {
  if (event.target.name === "case") describeBar();
});

// ---- what HTMX swaps ----

document.addEventListener("htmx:afterSettle", (event) => {
  const target = event.detail.target;
  if (target.id === "confirm") showDialog("confirm");
  if (["list", "case"].includes(target.id) || find("#case, #list", target)) {
    const isFilter = document.activeElement?.closest(".filters");
    if (isFilter) place = 0;
    const isMenu = document.activeElement?.closest("details.menu[open]"); // opened since the swap
    chooseAgain({ focus: !isFilter && !isMenu });
  }
  endUndo();
});

// What went wrong before is over once something else is asked for.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (!["case", "list"].includes(event.detail.elt.id)) all("#messages .error").forEach((each) => each.remove());
});

// Somebody was faster: the message says so, and the page shows what is there now.
document.addEventListener("htmx:responseError", (event) => {
  find("#confirm")?.close();
  const shown = find("#case, #list");
  if (event.detail.xhr.status === 409 && shown) htmx.trigger(shown, "stale");
});

document.addEventListener("htmx:sendError", () => {
  const message = document.createElement("p");
  message.className = "message error";
  message.textContent = "The desk does not answer. Nothing was changed; try again in a moment.";
  find("#messages").replaceChildren(message);
});

// An undo that can no longer be done is taken away.
let ending;
function endUndo() {
  clearTimeout(ending);
  const undo = find(".undo[data-seconds]");
  if (undo) ending = setTimeout(() => undo.remove(), Number(undo.dataset.seconds) * 1000);
}

document.documentElement.classList.add("has-script");
if (find("#bar")) find("#bar-claim").hidden = false;
chooseAgain({ focus: false });
endUndo();
